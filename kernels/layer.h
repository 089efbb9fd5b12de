/** @file layer.h  What the layers of mixers do alike: projections, views of [N, heads, D], convolutions' memory, how an
 * output gate starts.  [leaf]
 *
 * Included by kernels/cpu/mixer_*.c and kernels/attention.h only. `i` is the place of a weight in the type's params().
 */
#ifndef GR_KERNELS_LAYER_H
#define GR_KERNELS_LAYER_H
#include "kernels/mixer.h"
#include <string.h>

/** [N, heads, D] as one row per token, for projections and convolutions. */
static inline gr_tensor gr_token_rows(gr_tensor x)
{
    return gr_as2(x, x.dim[0], x.dim[1] * x.dim[2]);
}

/** [N, heads, D] as one row per head, for norms over D. */
static inline gr_tensor gr_head_rows(gr_tensor x)
{
    return gr_as2(x, x.dim[0] * x.dim[1], x.dim[2]);
}

/** y = x W_i^T. */
static inline void gr_project(const gr_mixer_ctx *c, int i, gr_tensor y, gr_tensor x)
{
    c->op->gemm(y, x, false, c->w[i], true, 1.0f, 0.0f, c->stream);
}

/** Its gradient: dW_i += dy^T x unless W_i is frozen, dx = dy W_i + beta dx unless dx is none. */
static inline void gr_project_back(const gr_mixer_ctx *c, int i, gr_tensor dx, gr_tensor dy, gr_tensor x, float beta)
{
    if (c->dw[i].data) c->op->gemm(c->dw[i], dy, true, x, false, 1.0f, 1.0f, c->stream);
    if (dx.data) c->op->gemm(dx, dy, false, c->w[i], false, 1.0f, beta, c->stream);
}

/** [N, heads, D]. */
static inline gr_tensor gr_take_heads(gr_arena *a, const gr_mixer_spec *s, int64_t N, int n_head)
{
    return gr_take3(a, GR_F32, N, n_head, s->head_dim);
}

/** [channels, 1, W] as the convolution wants it. */
static inline gr_tensor gr_taps(gr_tensor w)
{
    return w.data ? gr_as2(w, w.dim[0], w.dim[1] * w.dim[2]) : gr_none();
}

/** Rows [first, first + n) of a weight that is several side by side; a frozen one's gradient stays none. */
static inline gr_tensor gr_part(gr_tensor w, int64_t first, int64_t n)
{
    return w.data ? gr_rows(w, first, n) : gr_none();
}

/** Decoding: forget the oldest row of a convolution's history, append x. */
static inline void gr_remember(const gr_mixer_ctx *c, gr_tensor history, gr_tensor x)
{
    const int64_t  n = history.dim[0];
    const uint64_t bytes = (uint64_t)gr_row(history) * sizeof(float);

    for (int64_t i = 0; i < n; i++)
        c->op->copy(gr_rows(history, i, 1).data, i + 1 < n ? gr_rows(history, i + 1, 1).data : x.data, bytes, GR_WITHIN,
                    c->stream);
}

/** An output gate [H D, hidden] starts as (W_O^T + W_V repeated) / 2. The repetition is by rows, row i taking W_V's row
 * i / rep, which stretches channels inside a head instead of repeating heads: so hybrid-model-factory does it, and so
 * the released weights began. */
static inline void gr_gate_from_attention(const gr_mixer_spec *s, float *gate, const float *w_o, const float *w_v)
{
    const int64_t hid = s->hidden, HD = (int64_t)s->n_head * s->head_dim, rep = s->n_head / s->n_kv_head;

    for (int64_t i = 0; i < HD; i++)
        for (int64_t j = 0; j < hid; j++) gate[i * hid + j] = 0.5f * (w_o[j * HD + i] + w_v[i / rep * hid + j]);
}

/** Did an arena run out while this layer took what it needs? Then it must not compute; gr_model_forward and backward
 * find out by gr_arena_status and report. */
static inline bool gr_out_of_memory(const gr_mixer_ctx *c)
{
    return (c->keep && gr_arena_status(c->keep) != GR_OK) || gr_arena_status(c->scratch) != GR_OK;
}
#endif
