/* Gated DeltaNet: the layer. Its core, the recurrence itself, is in mixer_gdn_core.c. */
#include "kernels/mixer.h"
#include <math.h>
#include <string.h>

enum { W_Q, W_K, W_V, W_B, W_GK, A_LOG, DT_BIAS, CONV_Q, CONV_K, CONV_V, W_G, O_NORM, W_O, N_PARAM };

/* Kept for backward: projections before the convolutions and before the decay's softplus, gates, the core's output. What is
 * elementwise or a row sum from there (convolutions, both norms) is computed again. */
enum { T_Q, T_K, T_V, T_A, T_DECAY, T_BETA, T_Z, T_O, N_TAPE };

enum { HIST_Q, HIST_K, HIST_V, STATE, N_STATE }; /* decoding: last W - 1 inputs of each convolution; S */

static const float L2_EPS = 1e-6f, O_EPS = 1e-5f;

static int params(const gr_mixer_spec *s, gr_param_spec p[GR_MIXER_PARAMS])
{
    const int64_t hid = s->hidden, H = s->n_head, D = s->head_dim, HD = H * D, GD = s->n_kv_head * D, W = s->conv_width;

    p[W_Q] = (gr_param_spec){"q_proj.weight", 2, {HD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_K] = (gr_param_spec){"k_proj.weight", 2, {GD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_V] = (gr_param_spec){"v_proj.weight", 2, {GD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_B] = (gr_param_spec){"b_proj.weight", 2, {H, hid, 1}, GR_INIT_NORMAL, true};
    p[W_GK] = (gr_param_spec){"gk_proj.weight", 2, {H, hid, 1}, GR_INIT_NORMAL, true};
    p[A_LOG] = (gr_param_spec){"A_log", 1, {H, 1, 1}, GR_INIT_A_LOG, false};
    p[DT_BIAS] = (gr_param_spec){"dt_bias", 1, {H, 1, 1}, GR_INIT_DT_BIAS, false};
    p[CONV_Q] = (gr_param_spec){"q_conv1d.weight", 3, {HD, 1, W}, GR_INIT_DELTA, true};
    p[CONV_K] = (gr_param_spec){"k_conv1d.weight", 3, {GD, 1, W}, GR_INIT_DELTA, true};
    p[CONV_V] = (gr_param_spec){"v_conv1d.weight", 3, {GD, 1, W}, GR_INIT_DELTA, true};
    p[W_G] = (gr_param_spec){"g_proj.weight", 2, {HD, hid, 1}, GR_INIT_NORMAL, true};
    p[O_NORM] = (gr_param_spec){"o_norm.weight", 1, {D, 1, 1}, GR_INIT_ONE, false};
    p[W_O] = (gr_param_spec){"o_proj.weight", 2, {hid, HD, 1}, GR_INIT_NORMAL, true};
    return N_PARAM;
}

/* Projections are the attention's; its q and k norms have no place here (the L2 norm replaces them). The output gate starts
 * as (W_O^T + W_V repeated) / 2. The repetition is by rows, row i taking W_V's row i / rep, which stretches channels
 * inside a head instead of repeating heads: so hybrid-model-factory does it, and so the released weights began. */
static void from_attention(const gr_mixer_spec *s, float *const *w, const float *const *attn)
{
    enum { ATTN_Q, ATTN_K, ATTN_V, ATTN_O };
    const int64_t hid = s->hidden, HD = (int64_t)s->n_head * s->head_dim, GD = (int64_t)s->n_kv_head * s->head_dim;
    const int64_t rep = HD / GD;

    memcpy(w[W_Q], attn[ATTN_Q], (size_t)(HD * hid) * sizeof(float));
    memcpy(w[W_K], attn[ATTN_K], (size_t)(GD * hid) * sizeof(float));
    memcpy(w[W_V], attn[ATTN_V], (size_t)(GD * hid) * sizeof(float));
    memcpy(w[W_O], attn[ATTN_O], (size_t)(hid * HD) * sizeof(float));
    for (int64_t i = 0; i < HD; i++)
        for (int64_t j = 0; j < hid; j++)
            w[W_G][i * hid + j] = 0.5f * (attn[ATTN_O][j * HD + i] + attn[ATTN_V][i / rep * hid + j]);
}

/* ---- shapes ------------------------------------------------------------------------------------------------------ */

/* [N, heads, D] as one row per token, and as one row per head. */
static gr_tensor tokens(gr_tensor x)
{
    return gr_as2(x, x.dim[0], gr_row(x));
}

static gr_tensor heads(gr_tensor x)
{
    return gr_as2(x, x.dim[0] * x.dim[1], x.dim[2]);
}

/* [channels, 1, W] as the convolution wants it. */
static gr_tensor taps(gr_tensor w)
{
    return w.data ? gr_as2(w, w.dim[0], w.dim[1] * w.dim[2]) : gr_none();
}

static gr_tensor take_heads(gr_arena *a, const gr_mixer_ctx *c, int64_t N, int n_head)
{
    return gr_take3(a, GR_F32, N, n_head, c->spec->head_dim);
}

static bool out_of_memory(const gr_mixer_ctx *c)
{
    return (c->keep && gr_arena_status(c->keep) != GR_OK) || gr_arena_status(c->scratch) != GR_OK;
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* What the core gets, besides the gates: q, k normalised to unit length; v. */
typedef struct inputs {
    gr_tensor q, k, v;      /* after convolution and norm      */
    gr_tensor q_rs, k_rs;   /* [N H], [N G] reciprocal lengths */
} inputs;

static inputs take_inputs(const gr_mixer_ctx *c, int64_t N)
{
    const int    H = c->spec->n_head, G = c->spec->n_kv_head;
    const inputs in = {take_heads(c->scratch, c, N, H), take_heads(c->scratch, c, N, G), take_heads(c->scratch, c, N, G),
                       gr_take1(c->scratch, GR_F32, N * H), gr_take1(c->scratch, GR_F32, N * G)};
    return in;
}

static void take_tape(gr_arena *a, const gr_mixer_ctx *c, int64_t N, gr_tensor *t)
{
    const int H = c->spec->n_head, G = c->spec->n_kv_head;

    t[T_Q] = take_heads(a, c, N, H);
    t[T_K] = take_heads(a, c, N, G);
    t[T_V] = take_heads(a, c, N, G);
    t[T_A] = gr_take2(a, GR_F32, N, H);
    t[T_DECAY] = gr_take2(a, GR_F32, N, H);
    t[T_BETA] = gr_take2(a, GR_F32, N, H);
    t[T_Z] = take_heads(a, c, N, H);
    t[T_O] = take_heads(a, c, N, H);
}

static float beta_scale(const gr_mixer_ctx *c)
{
    return c->spec->neg_eigval ? 2.0f : 1.0f;
}

static void project(const gr_mixer_ctx *c, int i, gr_tensor y, gr_tensor x)
{
    c->op->gemm(y, x, false, c->w[i], true, 1.0f, 0.0f, c->stream);
}

/* Everything linear in x, and the gates. */
static void projections(const gr_mixer_ctx *c, const gr_tensor *t, gr_tensor x)
{
    project(c, W_Q, tokens(t[T_Q]), x);
    project(c, W_K, tokens(t[T_K]), x);
    project(c, W_V, tokens(t[T_V]), x);
    project(c, W_G, tokens(t[T_Z]), x);
    project(c, W_GK, t[T_A], x);
    project(c, W_B, t[T_BETA], x);
    c->op->decay(t[T_DECAY], t[T_A], c->w[A_LOG], c->w[DT_BIAS], c->stream);
    c->op->sigmoid(t[T_BETA], t[T_BETA], beta_scale(c), c->stream);
}

/* history: per convolution the rows before x, or NULL at the start of a document. */
static void core_inputs(const gr_mixer_ctx *c, const inputs *in, const gr_tensor *t, const gr_seq *seq, const gr_tensor *history)
{
    const gr_tensor out[] = {in->q, in->k, in->v};

    for (int i = 0; i < 3; i++)
        c->op->conv(tokens(out[i]), tokens(t[T_Q + i]), taps(c->w[CONV_Q + i]), gr_none(), history ? history[i] : gr_none(), seq,
                    c->stream);
    c->op->l2norm(heads(in->q), in->q_rs, heads(in->q), L2_EPS, c->stream);
    c->op->l2norm(heads(in->k), in->k_rs, heads(in->k), L2_EPS, c->stream);
}

static gr_core_args core_args(const gr_mixer_ctx *c, const inputs *in, const gr_tensor *t, const gr_seq *seq)
{
    const gr_mixer_spec *s = c->spec;
    const gr_core_args   a = {
          .seq = seq, .n_head = s->n_head, .n_kv_head = s->n_kv_head, .k_dim = s->head_dim, .v_dim = s->head_dim,
          .chunk = s->chunk, .scale = 1.0f / sqrtf((float)s->head_dim), .q = in->q, .k = in->k, .v = in->v,
          .gate = {t[T_DECAY], t[T_BETA]}, .o = t[T_O], .scratch = c->scratch,
    };
    return a;
}

/* h = rmsnorm(o) silu(z), which the output projection reads. */
static void gated_output(const gr_mixer_ctx *c, gr_tensor h, gr_tensor rstd, const gr_tensor *t)
{
    c->op->gated_norm(heads(h), rstd, heads(t[T_O]), heads(t[T_Z]), c->w[O_NORM], O_EPS, c->stream);
}

static void forward(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    const gr_mark mark = gr_arena_mark(c->scratch);
    const int64_t N = x.dim[0];
    gr_tape       brief, *t = tape ? tape : &brief;
    gr_tensor     rstd;
    inputs        in;

    take_tape(tape ? c->keep : c->scratch, c, N, t->t);
    in = take_inputs(c, N);
    rstd = gr_take1(c->scratch, GR_F32, N * c->spec->n_head);
    if (!out_of_memory(c)) {
        const gr_core_args a = core_args(c, &in, t->t, c->seq);

        projections(c, t->t, x);
        core_inputs(c, &in, t->t, c->seq, NULL);
        c->core->forward(&a, c->stream);
        gated_output(c, in.q, rstd, t->t); /* q has been read: its memory serves for h */
        project(c, W_O, y, tokens(in.q));
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* y = x W^T:  dW += dy^T x,  dx = dy W + beta dx. */
static void project_back(const gr_mixer_ctx *c, int i, gr_tensor dx, gr_tensor dy, gr_tensor x, float beta)
{
    if (c->dw[i].data) c->op->gemm(c->dw[i], dy, true, x, false, 1.0f, 1.0f, c->stream);
    if (dx.data) c->op->gemm(dx, dy, false, c->w[i], false, 1.0f, beta, c->stream);
}

/* From gradients of the core's inputs (in `d`, overwritten) to those of the raw projections `raw`. */
static void core_inputs_back(const gr_mixer_ctx *c, const gr_tensor raw[3], const inputs *d, const inputs *in, const gr_tensor *t)
{
    const gr_tensor dy[] = {d->q, d->k, d->v};

    c->op->l2norm_back(heads(d->q), heads(d->q), heads(in->q), in->q_rs, c->stream);
    c->op->l2norm_back(heads(d->k), heads(d->k), heads(in->k), in->k_rs, c->stream);
    for (int i = 0; i < 3; i++)
        c->op->conv_back(tokens(raw[i]), taps(c->dw[CONV_Q + i]), gr_none(), gr_none(), tokens(dy[i]), tokens(t[T_Q + i]),
                         taps(c->w[CONV_Q + i]), gr_none(), gr_none(), c->seq, c->stream);
}

static void backward(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape)
{
    const gr_mark    mark = gr_arena_mark(c->scratch);
    const gr_tensor *t = tape->t;
    const int64_t    N = x.dim[0], H = c->spec->n_head;
    const inputs     in = take_inputs(c, N), d = take_inputs(c, N);
    const gr_tensor  rstd = gr_take1(c->scratch, GR_F32, N * H), h = take_heads(c->scratch, c, N, c->spec->n_head);
    const gr_tensor  d_o = take_heads(c->scratch, c, N, c->spec->n_head), dz = take_heads(c->scratch, c, N, c->spec->n_head);
    const gr_tensor  dg = gr_take2(c->scratch, GR_F32, N, H), dbeta = gr_take2(c->scratch, GR_F32, N, H);

    if (!out_of_memory(c)) {
        const gr_tensor raw[3] = {in.q, in.k, in.v}; /* free again by the time the convolutions go backward */
        gr_core_args    a = core_args(c, &in, t, c->seq);

        /* y = h W_O^T,  h = rmsnorm(o) silu(z) */
        gated_output(c, h, rstd, t);
        project_back(c, W_O, tokens(d.q), dy, tokens(h), 0.0f); /* d.q serves for dh */
        c->op->gated_norm_back(heads(d_o), heads(dz), c->dw[O_NORM], heads(d.q), heads(t[T_O]), rstd, heads(t[T_Z]),
                               c->w[O_NORM], c->stream);

        core_inputs(c, &in, t, c->seq, NULL);
        a.d_o = d_o, a.dq = d.q, a.dk = d.k, a.dv = d.v, a.dgate[0] = dg, a.dgate[1] = dbeta;
        c->core->backward(&a, c->stream);

        core_inputs_back(c, raw, &d, &in, t);
        c->op->decay_back(dg, c->dw[A_LOG], c->dw[DT_BIAS], dg, t[T_DECAY], t[T_A], c->w[A_LOG], c->w[DT_BIAS], c->stream);
        c->op->sigmoid_back(dbeta, dbeta, t[T_BETA], beta_scale(c), c->stream);

        project_back(c, W_Q, dx, tokens(raw[0]), x, 0.0f);
        project_back(c, W_K, dx, tokens(raw[1]), x, 1.0f);
        project_back(c, W_V, dx, tokens(raw[2]), x, 1.0f);
        project_back(c, W_G, dx, tokens(dz), x, 1.0f);
        project_back(c, W_GK, dx, dg, x, 1.0f);
        project_back(c, W_B, dx, dbeta, x, 1.0f);
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

static int state_shape(const gr_mixer_spec *s, int64_t capacity, gr_mixer_state *state)
{
    const int64_t D = s->head_dim, before = s->conv_width - 1;

    (void)capacity; /* the point of it all */
    state->t[HIST_Q] = gr_view2(NULL, GR_F32, before, s->n_head * D);
    state->t[HIST_K] = gr_view2(NULL, GR_F32, before, s->n_kv_head * D);
    state->t[HIST_V] = gr_view2(NULL, GR_F32, before, s->n_kv_head * D);
    state->t[STATE] = gr_view3(NULL, GR_F32, s->n_head, D, D);
    return N_STATE;
}

/* Forget the oldest row, append x. */
static void remember(const gr_mixer_ctx *c, gr_tensor history, gr_tensor x)
{
    const int64_t  n = history.dim[0];
    const uint64_t bytes = (uint64_t)gr_row(history) * sizeof(float);

    for (int64_t i = 0; i < n; i++)
        c->op->copy(gr_rows(history, i, 1).data, i + 1 < n ? gr_rows(history, i + 1, 1).data : x.data, bytes, GR_WITHIN, c->stream);
}

static void step(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos)
{
    static const int32_t doc[2] = {0, 1};
    const gr_mark        mark = gr_arena_mark(c->scratch);
    const gr_seq         one = {.n = 1, .n_doc = 1, .doc = doc};
    const bool           short_memory = c->spec->conv_width > 1;
    gr_tensor            t[N_TAPE], rstd;
    inputs               in;

    (void)pos;
    take_tape(c->scratch, c, 1, t);
    in = take_inputs(c, 1);
    rstd = gr_take1(c->scratch, GR_F32, c->spec->n_head);
    if (!out_of_memory(c)) {
        gr_core_args a = core_args(c, &in, t, &one);

        projections(c, t, x);
        core_inputs(c, &in, t, &one, short_memory ? &state->t[HIST_Q] : NULL);
        for (int i = 0; i < 3; i++) remember(c, state->t[HIST_Q + i], t[T_Q + i]);
        a.state_in = a.state_out = state->t[STATE];
        c->core->forward(&a, c->stream);
        gated_output(c, in.q, rstd, t);
        project(c, W_O, y, tokens(in.q));
    }
    gr_arena_release(c->scratch, mark);
}

/* docs/math.md 10. The core's backward includes replaying the states; projections cost twice as much backward. */
static gr_mixer_cost cost(const gr_mixer_spec *s, int64_t context)
{
    const double H = s->n_head, G = s->n_kv_head, D = s->head_dim, hid = s->hidden;
    const double C = (double)(context < s->chunk ? context : s->chunk);
    const double proj = 2 * hid * (3 * H * D + 2 * G * D + 2 * H);
    const double fwd = H * (8 * C * D + 6 * D * D), replay = H * (4 * C * D + 4 * D * D);
    const double bwd = H * (22 * C * D + 14 * D * D) + replay;

    return (gr_mixer_cost){
        .forward = proj + fwd,
        .backward = 2 * proj + bwd,
        .core_forward = fwd,
        .core_backward = bwd,
        .state_bytes = 4 * (H * D * D + (s->conv_width - 1) * (H + 2 * G) * D),
    };
}

const gr_mixer_def gr_gdn_def = {
    .name = "gdn",
    .symbol = "GDN",
    .prefix = "gdn",
    .source = "Yang, Kautz, Hatamizadeh 2024, arXiv:2412.06464; hybrid-model-factory's GatedDeltaNet; docs/math.md 2",
    .params = params,
    .from_attention = from_attention,
    .forward = forward,
    .backward = backward,
    .state_shape = state_shape,
    .step = step,
    .cost = cost,
};
