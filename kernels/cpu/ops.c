/* The table of the cpu backend, memory, and the door through which a backend is chosen. */
#include "kernels/cpu/cpu.h"
#include "util/mem.h"
#include <stdio.h>
#include <string.h>

gr_status gr_cpu_alloc(void **p, uint64_t bytes, const char *what)
{
    return gr_alloc(p, bytes, 1, what);
}

void gr_cpu_free(void **p)
{
    gr_free(p);
}

void gr_cpu_copy(void *dst, const void *src, uint64_t bytes, gr_copy way, gr_stream *s)
{
    (void)way;
    (void)s;
    if (bytes) memcpy(dst, src, bytes);
}

void gr_cpu_zero(gr_tensor x, gr_stream *s)
{
    (void)s;
    if (x.data) memset(x.data, 0, (size_t)(gr_count(x) * gr_dtype_size(x.dtype)));
}

void gr_cpu_add_parts(float *sum, const float *part, int64_t n, int64_t width, int64_t stride)
{
    for (int64_t i = 0; i < width; i++) {
        double total = sum[i];

        for (int64_t b = 0; b < n; b++) total += part[b * stride + i];
        sum[i] = (float)total;
    }
}

const gr_ops gr_ops_cpu = {
    .name = "cpu",
    .alloc = gr_cpu_alloc,
    .free = gr_cpu_free,
    .copy = gr_cpu_copy,
    .zero = gr_cpu_zero,
    .gemm = gr_cpu_gemm,
    .add = gr_cpu_add,
    .bias = gr_cpu_bias,
    .bias_back = gr_cpu_bias_back,
    .scale = gr_cpu_scale,
    .sumsq = gr_cpu_sumsq,
    .rmsnorm = gr_cpu_rmsnorm,
    .rmsnorm_back = gr_cpu_rmsnorm_back,
    .l2norm = gr_cpu_l2norm,
    .l2norm_back = gr_cpu_l2norm_back,
    .unit_norm = gr_cpu_unit_norm,
    .unit_norm_back = gr_cpu_unit_norm_back,
    .gated_norm = gr_cpu_gated_norm,
    .gated_norm_back = gr_cpu_gated_norm_back,
    .rope_table = gr_cpu_rope_table,
    .rope = gr_cpu_rope,
    .embed = gr_cpu_embed,
    .embed_back = gr_cpu_embed_back,
    .swiglu = gr_cpu_swiglu,
    .swiglu_back = gr_cpu_swiglu_back,
    .conv = gr_cpu_conv,
    .conv_back = gr_cpu_conv_back,
    .decay = gr_cpu_decay,
    .decay_back = gr_cpu_decay_back,
    .softplus = gr_cpu_softplus,
    .softplus_back = gr_cpu_softplus_back,
    .skip = gr_cpu_skip,
    .skip_back = gr_cpu_skip_back,
    .sigmoid = gr_cpu_sigmoid,
    .sigmoid_back = gr_cpu_sigmoid_back,
    .token_loss = gr_cpu_token_loss,
    .top_k = gr_cpu_top_k,
    .kl_full = gr_cpu_kl_full,
    .align_loss = gr_cpu_align_loss,
    .adamw = gr_cpu_adamw,
};

gr_status gr_backend_open(const char *name, int threads, const gr_ops **ops, char *note, int n_note)
{
    gr_status st = GR_OK;

    GR_CHECK(strcmp(name, "cuda") != 0, GR_ERR_CONFIG, "backend cuda: this build has no cuda backend");
    GR_CHECK(strcmp(name, "cpu") == 0, GR_ERR_CONFIG, "backend '%s' is unknown; this build has: cpu", name);
    GR_CHECK(threads >= 1, GR_ERR_CONFIG, "backend cpu: %d threads, but at least 1 is needed", threads);
    GR_TRY(gr_cpu_blas_open(threads, note, n_note));
    *ops = &gr_ops_cpu;
out:
    return st;
}
