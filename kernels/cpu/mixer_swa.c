/* Sliding-window attention: a token sees the last `swa_window` tokens, itself included, and the first `swa_sink` of its
 * document, with the parameters of the attention it replaces. Its state is a ring of swa_window + swa_sink keys.
 * The layer is kernels/attention.h, the core softmax.h. docs/math.md 5.5. */
#include "kernels/attention.h"
#include "kernels/cpu/softmax.h"

/* tol: as attention's (mixer_attn.c); there are fewer keys to sum over. */
const gr_mixer_core gr_swa_cpu = {
    .tol = 1e-5, .forward = gr_softmax_core_forward, .backward = gr_softmax_core_backward};

static gr_reach reach(const gr_mixer_spec *s)
{
    return (gr_reach){s->swa_window, s->swa_sink};
}

static void forward(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    gr_attention_forward(c, reach(c->spec), y, x, tape);
}

static void backward(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape)
{
    gr_attention_backward(c, reach(c->spec), dx, dy, x, tape);
}

static int state_shape(const gr_mixer_spec *s, int64_t capacity, gr_mixer_state *state)
{
    return gr_attention_state_shape(s, reach(s), capacity, state);
}

static void step(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos)
{
    gr_attention_step(c, reach(c->spec), y, x, state, pos);
}

static gr_mixer_cost cost(const gr_mixer_spec *s, int64_t context)
{
    return gr_attention_cost(s, reach(s), context);
}

static const gr_foreign_option foreign[] = {{.ours = "swa_window", .theirs = "window_size"}, {.ours = "swa_sink"}, {0}};

const gr_mixer_def gr_swa_def = {
    .name = "swa",
    .symbol = "SWA",
    .prefix = "swa",
    .source = "Beltagy et al. 2020, arXiv:2004.05150; sinks: Xiao et al. 2023, arXiv:2309.17453; docs/math.md 5.5",
    .gain = GR_ATTN_O,
    .foreign = foreign,
    .attends = true,
    .params = gr_attention_params,
    .from_attention = gr_attention_from_attention,
    .forward = forward,
    .backward = backward,
    .state_shape = state_shape,
    .step = step,
    .cost = cost,
};
