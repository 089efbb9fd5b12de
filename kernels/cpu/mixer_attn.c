/* Softmax attention, exact and causal inside each document, with grouped key/value heads: every token before.
 * The layer is kernels/attention.h, the core softmax.h. docs/math.md 5. */
#include "kernels/attention.h"
#include "kernels/cpu/softmax.h"

/* tol: measured 5e-7 at scores of order 1; a score of size S adds S 2^-24, so 1e-5 allows for scores of 100. */
const gr_mixer_core gr_attn_cpu = {
    .tol = 1e-5, .forward = gr_softmax_core_forward, .backward = gr_softmax_core_backward};

/* ---- the layer ------------------------------------------------------------------------------------- */

static const gr_reach EVERYTHING = {0, 0};

static void forward(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    gr_attention_forward(c, EVERYTHING, y, x, tape);
}

static void backward(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape)
{
    gr_attention_backward(c, EVERYTHING, dx, dy, x, tape);
}

static int state_shape(const gr_mixer_spec *s, int64_t capacity, gr_mixer_state *state)
{
    return gr_attention_state_shape(s, EVERYTHING, capacity, state);
}

static void step(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos)
{
    gr_attention_step(c, EVERYTHING, y, x, state, pos);
}

static gr_mixer_cost cost(const gr_mixer_spec *s, int64_t context)
{
    return gr_attention_cost(s, EVERYTHING, context);
}

const gr_mixer_def gr_attn_def = {
    .name = "attn",
    .symbol = "*",
    .prefix = "self_attn",
    .source = "Vaswani et al. 2017, arXiv:1706.03762; Dao 2023, arXiv:2307.08691; docs/math.md 5",
    .gain = GR_ATTN_O,
    .attends = true,
    .params = gr_attention_params,
    .from_attention = gr_attention_from_attention,
    .forward = forward,
    .backward = backward,
    .state_shape = state_shape,
    .step = step,
    .cost = cost,
};
