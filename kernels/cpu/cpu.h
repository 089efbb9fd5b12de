/** @file cpu.h  The operations of the cpu backend, and how they sum.  [leaf]
 *
 * What each operation does stands in kernels/backend.h; this header only lets ops.c put them into its table.
 *
 * How sums are made repeatable. A sum over rows (the gradient of a norm's weight, a loss) must not depend on which
 * thread was first, and should not depend on how many there are. So rows are cut into blocks of GR_ROWS; one thread
 * sums a block, in row order and in fp32, into the block's own line of a buffer `part` on the stack of the caller; then
 * the lines are added in block order, in fp64. As many blocks are in flight at a time as lines fit the buffer.
 */
#ifndef GR_KERNELS_CPU_CPU_H
#define GR_KERNELS_CPU_CPU_H
#include "kernels/backend.h"
#include <stddef.h>

enum {
    GR_ROWS = 64,      /* rows of a block                                                                            */
    GR_PART = 1 << 16, /* floats in `part` (256 KiB); also the widest row whose gradient can be summed               */
    GR_SERIAL = 1 << 14, /* elements below which one thread is quicker than waking others (fork and join: 1 us) */
    GR_TAPS = 7          /* widest convolution */
};

static inline float *gr_f(gr_tensor t)
{
    return (float *)t.data;
}

/** Blocks in flight when a block's line holds `width` floats. */
static inline int64_t gr_flight(int64_t width)
{
    return width < GR_PART ? GR_PART / width : 1;
}

/** sum[i] += part[0][i] + part[1][i] + ..., i < width, over n lines `stride` apart. */
void gr_cpu_add_parts(float *sum, const float *part, int64_t n, int64_t width, int64_t stride);

/* ops.c, memory */
gr_status gr_cpu_alloc(void **p, uint64_t bytes, const char *what);
void      gr_cpu_free(void **p);
void      gr_cpu_copy(void *dst, const void *src, uint64_t bytes, gr_copy way, gr_stream *s);
void      gr_cpu_zero(gr_tensor x, gr_stream *s);

/* blas.c, gemm.c */
gr_status gr_cpu_blas_open(int threads, char *note, int n_note);
void      gr_cpu_gemm(gr_tensor c, gr_tensor a, bool ta, gr_tensor b, bool tb, float alpha, float beta, gr_stream *s);

/* bias.c */
void gr_cpu_bias(gr_tensor y, gr_tensor b, gr_stream *s);
void gr_cpu_bias_back(gr_tensor db, gr_tensor dy, gr_stream *s);

/* pointwise.c */
void gr_cpu_add(gr_tensor y, gr_tensor x, gr_stream *s);
void gr_cpu_scale(gr_tensor x, float a, gr_stream *s);
void gr_cpu_sumsq(gr_tensor sum, gr_tensor x, gr_stream *s);
void gr_cpu_sigmoid(gr_tensor y, gr_tensor x, float scale, gr_stream *s);
void gr_cpu_sigmoid_back(gr_tensor dx, gr_tensor dy, gr_tensor y, float scale, gr_stream *s);
void gr_cpu_swiglu(gr_tensor h, gr_tensor g, gr_tensor u, gr_stream *s);
void gr_cpu_swiglu_back(gr_tensor dg, gr_tensor du, gr_tensor dh, gr_tensor g, gr_tensor u, gr_stream *s);

/* norm.c */
void gr_cpu_rmsnorm(gr_tensor y, gr_tensor rstd, gr_tensor x, gr_tensor w, float eps, gr_stream *s);
void gr_cpu_rmsnorm_back(gr_tensor dx, gr_tensor dw, gr_tensor dy, gr_tensor x, gr_tensor rstd, gr_tensor w,
                         gr_stream *s);
void gr_cpu_l2norm(gr_tensor y, gr_tensor rs, gr_tensor x, float eps, gr_stream *s);
void gr_cpu_l2norm_back(gr_tensor dx, gr_tensor dy, gr_tensor y, gr_tensor rs, gr_stream *s);
void gr_cpu_unit_norm(gr_tensor y, gr_tensor inv, gr_tensor x, float eps, gr_stream *s);
void gr_cpu_unit_norm_back(gr_tensor dx, gr_tensor dy, gr_tensor y, gr_tensor inv, gr_stream *s);
void gr_cpu_gated_norm(gr_tensor y, gr_tensor rstd, gr_tensor x, gr_tensor z, gr_tensor w, float eps, gr_stream *s);
void gr_cpu_gated_norm_back(gr_tensor dx, gr_tensor dz, gr_tensor dw, gr_tensor dy, gr_tensor x, gr_tensor rstd,
                            gr_tensor z, gr_tensor w, gr_stream *s);

/* rope.c, embed.c */
void gr_cpu_rope_table(gr_tensor cs, gr_tensor pos, gr_tensor inv_freq, gr_stream *s);
void gr_cpu_rope(gr_tensor x, gr_tensor cs, int sign, gr_stream *s);
void gr_cpu_embed(gr_tensor x, gr_tensor table, gr_tensor id, gr_stream *s);
void gr_cpu_embed_back(gr_tensor dtable, gr_tensor dx, gr_tensor id, gr_stream *s);

/* conv.c, decay.c */
void gr_cpu_conv(gr_tensor y, gr_tensor x, gr_tensor w, gr_tensor b, gr_tensor head, const gr_seq *seq, gr_stream *s);
void gr_cpu_conv_back(gr_tensor dx, gr_tensor dw, gr_tensor db, gr_tensor dhead, gr_tensor dy, gr_tensor x, gr_tensor w,
                      gr_tensor b, gr_tensor head, const gr_seq *seq, gr_stream *s);
void gr_cpu_decay(gr_tensor g, gr_tensor a, gr_tensor a_log, gr_tensor dt_bias, gr_stream *s);
void gr_cpu_decay_back(gr_tensor da, gr_tensor da_log, gr_tensor ddt_bias, gr_tensor dg, gr_tensor g, gr_tensor a,
                       gr_tensor a_log, gr_tensor dt_bias, gr_stream *s);
void gr_cpu_softplus(gr_tensor y, gr_tensor x, gr_tensor b, gr_stream *s);
void gr_cpu_softplus_back(gr_tensor dx, gr_tensor db, gr_tensor dy, gr_tensor x, gr_tensor b, gr_stream *s);

/* skip.c */
void gr_cpu_skip(gr_tensor y, gr_tensor x, gr_tensor d, gr_stream *s);
void gr_cpu_skip_back(gr_tensor dx, gr_tensor dd, gr_tensor dy, gr_tensor x, gr_tensor d, gr_stream *s);

/* token_loss.c, align_loss.c */
void gr_cpu_token_loss(gr_tensor dz, gr_tensor sum, gr_tensor z, const gr_targets *t, gr_stream *s);
void gr_cpu_top_k(gr_tensor id, gr_tensor lp, gr_tensor tail, gr_tensor z, gr_stream *s);
void gr_cpu_kl_full(gr_tensor sum, gr_tensor zs, gr_tensor zt, gr_tensor id, gr_stream *s);
void gr_cpu_align_loss(gr_tensor dh, gr_tensor sum, gr_tensor h, gr_tensor y, gr_tensor mask, gr_stream *s);

/* adamw.c */
void gr_cpu_adamw(gr_tensor p, gr_tensor m, gr_tensor v, gr_tensor g, const gr_adamw *h, gr_stream *s);
#endif
