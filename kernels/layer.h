/** @file layer.h  What the layers of all mixers do alike: projections, and views of [N, heads, D].  [leaf]
 *
 * Included by kernels/cpu/mixer_*.c only. `i` is the place of a weight in the type's params().
 */
#ifndef GR_KERNELS_LAYER_H
#define GR_KERNELS_LAYER_H
#include "kernels/mixer.h"

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

/** Did an arena run out while this layer took what it needs? Then it must not compute; gr_model_forward and backward
 * find out by gr_arena_status and report. */
static inline bool gr_out_of_memory(const gr_mixer_ctx *c)
{
    return (c->keep && gr_arena_status(c->keep) != GR_OK) || gr_arena_status(c->scratch) != GR_OK;
}
#endif
