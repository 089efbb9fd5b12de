/** @file gla.h  Linear attention with scalar decay, one head over one document, in chunks.  [leaf]
 *
 *     S_t = e^{g_t} S_{t-1} + w_t k_t^T v_t          o_t = scale q_t S_t
 *
 * Used whole by Mamba-2 (w = Delta, scale 1), as the read-out of Gated KalmaNet (its own q), and by Mamba-3, where a
 * token has R rows of q, k, v that share g and w: S_t = e^{g_t} S_{t-1} + w_t sum_r k_tr^T v_tr, o_tr = scale q_tr S_t.
 *
 * Everything comes through gr_head: g = gate[0], w = gate[1] (NULL: 1), q, k, v with uniform row strides. A core may
 * point q (and dq) elsewhere before it calls. With R rows per token, tensors are [N, R, heads, width].
 * dgate[1] = sum_r <v_tr, d(w v)_tr>, the gradient of w.
 *
 * Source   docs/math.md 0.6 (Core A); Dao, Gu 2024, arXiv:2405.21060.
 */
#ifndef GR_KERNELS_CPU_GLA_H
#define GR_KERNELS_CPU_GLA_H
#include "kernels/cpu/chunk.h"

/** The four functions below: a core that is nothing else. */
extern const gr_recurrence gr_gla;

/** Floats of scratch, as gr_recurrence.room. */
int64_t gr_gla_room(const gr_head *x, int64_t n_chunk);

/** o, and state_out[0] if the span is the last. */
void gr_gla_forward(const gr_head *x, const gr_span *doc, float *room);

/** dq, dk, dv, dgate[0], dgate[1] (if w is there), and dstate_in[0] if the span is the first. o is not read. */
void gr_gla_backward(const gr_head *x, const gr_span *doc, float *room);

/** One token: the state is read once and written once. state_out[0] may be state_in[0]. */
void gr_gla_token(const gr_head *x, float *room);
#endif
