/** @file attention.h  The layer around a softmax over keys: what attn, swa and bmojo share.  [leaf]
 *
 *   q = rope(norm(x Wq^T))   k = rope(norm(x Wk^T))   v = x Wv^T   y = softmax(q, k, v) Wo^T
 *
 * norm is a per-head RMSNorm that Qwen3 has and Llama has not. In terms of gr_ops and of a core, hence the same on
 * every backend; the core is kernels/<backend>/softmax.*. docs/math.md 5.1.
 */
#ifndef GR_KERNELS_ATTENTION_H
#define GR_KERNELS_ATTENTION_H
#include "kernels/layer.h"

/** Parameters, in the order of gr_attention_params(); the norms only where the model has them. */
enum { GR_ATTN_Q, GR_ATTN_K, GR_ATTN_V, GR_ATTN_O, GR_ATTN_Q_NORM, GR_ATTN_K_NORM, GR_ATTN_PARAMS };

/** What a query sees: the last `window` tokens, itself included (0: everything), and the first `sink` of its document.
 */
typedef struct gr_reach {
    int window, sink;
} gr_reach;

int  gr_attention_params(const gr_mixer_spec *s, gr_param_spec p[GR_MIXER_PARAMS]);
void gr_attention_from_attention(const gr_mixer_spec *s, float *const *w, const float *const *attn);

/* gr_mixer_def's functions of a type with this reach. */
void gr_attention_forward(const gr_mixer_ctx *c, gr_reach r, gr_tensor y, gr_tensor x, gr_tape *tape);
void gr_attention_backward(const gr_mixer_ctx *c, gr_reach r, gr_tensor dx, gr_tensor dy, gr_tensor x,
                           const gr_tape *tape);
int  gr_attention_state_shape(const gr_mixer_spec *s, gr_reach r, int64_t capacity, gr_mixer_state *state);
void gr_attention_step(const gr_mixer_ctx *c, gr_reach r, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos);
gr_mixer_cost gr_attention_cost(const gr_mixer_spec *s, gr_reach r, int64_t context);

/* ---- its parts ------------------------------------------------------------------------------------ */

/** Heads of a query or key: three tensors side by side on the tape. Without norm `raw` is `out`, rstd none. */
enum { GR_HEADS_OUT, GR_HEADS_RAW, GR_HEADS_RSTD, GR_HEADS };

void gr_heads_take(gr_arena *arena, const gr_mixer_spec *s, int64_t N, int n_head, gr_tensor t[GR_HEADS]);

/** t = rope(norm(x W_weight^T)); `norm` is the place of the norm's weight, looked at where the model has norms. */
void gr_heads_forward(const gr_mixer_ctx *c, int weight, int norm, const gr_tensor t[GR_HEADS], gr_tensor x);

/** d, the gradient of t's `out`, becomes that of the projection; dw of the norm +=. */
void gr_heads_back(const gr_mixer_ctx *c, int norm, gr_tensor d, const gr_tensor t[GR_HEADS]);

/** A core's arguments, but for its tensors. */
gr_core_args gr_attention_args(const gr_mixer_ctx *c, gr_reach r);

/** Rows of a ring of keys, and where in it a position lives: sinks first, then the last `window` of the others. */
int64_t gr_ring_rows(gr_reach r, int64_t capacity);
int64_t gr_ring_slot(gr_reach r, int64_t pos);

/** Row `slot` of the cache = x [1, heads, D]. */
void gr_cache_write(const gr_mixer_ctx *c, gr_tensor cache, int64_t slot, gr_tensor x);
#endif
