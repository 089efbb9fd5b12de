/* Mamba-2 in the shape of attention: its core on cpu, then the layer around it (the same on every backend).
 *
 * A head holds a matrix S [K, D]. Each token lets it fade and writes into it, both as strongly as its step size Delta
 * says; B is the key, C the query, x the value:
 *
 *     S_t = e^{Delta_t A} S_{t-1} + Delta_t B_t^T x_t          y_t = C_t S_t + D x_t
 *
 * The core is linear attention with scalar decay, whole: kernels/cpu/gla.h. Formulas: docs/math.md 1. */
#include "kernels/attention.h"
#include "kernels/cpu/gla.h"
#include "kernels/layer.h"
#include <string.h>

static void core_forward(const gr_core_args *a, gr_stream *stream)
{
    (void)stream;
    gr_chunked_forward(a, &gr_gla);
}

static void core_backward(const gr_core_args *a, gr_stream *stream)
{
    (void)stream;
    gr_chunked_backward(a, &gr_gla);
}

const gr_mixer_core gr_mamba2_cpu = {
    .tol = 1e-5, /* fp32 against fp64; measured 2.3e-6 at most, whatever the length: decay forgets rounding as it
                    forgets tokens */
    .forward = core_forward,
    .backward = core_backward,
};

/* ==== the layer, in terms of gr_ops and the core ====================================================================
 */

/* The norms of B and C are there when attention has its own, and the layer starts from it as Priming does. */
enum { W_IN, CONV, CONV_BIAS, DT_BIAS, A_LOG, SKIP, NORM, W_OUT, B_NORM, C_NORM, N_PARAM };

/* in_proj's rows, and those of them that are convolved, in this order: z [H D], x [G D], B [G K], C [H K], dt [H]. */
enum { PART_Z, PART_X, PART_B, PART_C, PART_DT, N_PART, N_CONV = 3 };

/* Kept for backward: projections (z, x, B, C, dt in in_proj's order), gates, what the gate reads. Norms and
 * convolutions are computed again. */
enum { T_Z, T_X, T_B, T_C, T_DT, T_DELTA, T_DECAY, T_Y, N_TAPE };

enum { HIST_X, HIST_B, HIST_C, STATE, N_STATE }; /* decoding: last W - 1 inputs of each convolution; S */

static const float BC_EPS = 1e-6f, NORM_EPS = 1e-5f;

static bool has_bc_norm(const gr_mixer_spec *s)
{
    return s->qk_norm && !s->mamba2_llama;
}

/* K, channels of B and C. */
static int state_dim(const gr_mixer_spec *s)
{
    return s->mamba2_state > 0 ? s->mamba2_state : s->head_dim;
}

/* Heads of a part of in_proj, and channels of each. */
static int part_heads(const gr_mixer_spec *s, int part)
{
    return part == PART_X || part == PART_B ? s->n_kv_head : s->n_head;
}

static int part_width(const gr_mixer_spec *s, int part)
{
    return part == PART_DT ? 1 : part == PART_B || part == PART_C ? state_dim(s) : s->head_dim;
}

/* Where it begins; N_PART: how many rows there are. */
static int64_t part_at(const gr_mixer_spec *s, int part)
{
    int64_t at = 0;

    for (int i = 0; i < part; i++) at += (int64_t)part_heads(s, i) * part_width(s, i);
    return at;
}

static int64_t part_rows(const gr_mixer_spec *s, int part)
{
    return part_at(s, part + 1) - part_at(s, part);
}

static int params(const gr_mixer_spec *s, gr_param_spec p[GR_MIXER_PARAMS])
{
    const int64_t hid = s->hidden, H = s->n_head, D = s->head_dim, W = s->conv_width;
    const int64_t channels = part_at(s, PART_DT) - part_at(s, PART_X);

    p[W_IN] = (gr_param_spec){"in_proj.weight", 2, {part_at(s, N_PART), hid, 1}, GR_INIT_NORMAL, true};
    p[CONV] = (gr_param_spec){"conv1d.weight", 3, {channels, 1, W}, GR_INIT_DELTA, true};
    p[CONV_BIAS] = (gr_param_spec){"conv1d.bias", 1, {channels, 1, 1}, GR_INIT_ZERO, false};
    p[DT_BIAS] = (gr_param_spec){"dt_bias", 1, {H, 1, 1}, GR_INIT_DT_BIAS, false};
    p[A_LOG] = (gr_param_spec){"A_log", 1, {H, 1, 1}, GR_INIT_A_LOG, false};
    p[SKIP] = (gr_param_spec){"D", 1, {H, 1, 1}, GR_INIT_ONE, false};
    p[NORM] = (gr_param_spec){"norm.weight", 1, {H * D, 1, 1}, GR_INIT_ONE, false};
    p[W_OUT] = (gr_param_spec){"out_proj.weight", 2, {hid, H * D, 1}, GR_INIT_NORMAL, true};
    if (!has_bc_norm(s)) return B_NORM;
    p[B_NORM] = (gr_param_spec){"B_norm.weight", 1, {state_dim(s), 1, 1}, GR_INIT_ONE, false};
    p[C_NORM] = (gr_param_spec){"C_norm.weight", 1, {state_dim(s), 1, 1}, GR_INIT_ONE, false};
    return N_PARAM;
}

/* x, B, C, the output are attention's v, k, q, o: of B and C the first channels of every head, as many as both have.
 * Priming also starts the gate and the norms from attention; Mamba-in-the-Llama leaves the gate random and has no
 * norms. */
static void from_attention(const gr_mixer_spec *s, float *const *w, const float *const *attn)
{
    static const int from[] = {[PART_X] = GR_ATTN_V, [PART_B] = GR_ATTN_K, [PART_C] = GR_ATTN_Q};
    const int64_t    hid = s->hidden, D = s->head_dim;
    const size_t     both = (size_t)(state_dim(s) < s->head_dim ? state_dim(s) : s->head_dim);

    for (int i = PART_X; i <= PART_C; i++)
        for (int64_t h = 0; h < part_heads(s, i); h++)
            memcpy(w[W_IN] + (part_at(s, i) + h * part_width(s, i)) * hid, attn[from[i]] + h * D * hid,
                   (i == PART_X ? (size_t)D : both) * (size_t)hid * sizeof(float));
    memcpy(w[W_OUT], attn[GR_ATTN_O], (size_t)(part_rows(s, PART_Z) * hid) * sizeof(float));
    if (!s->mamba2_llama)
        gr_gate_from_attention(s, w[W_IN] + part_at(s, PART_Z) * hid, attn[GR_ATTN_O], attn[GR_ATTN_V]);
    if (!has_bc_norm(s)) return;
    memcpy(w[B_NORM], attn[GR_ATTN_K_NORM], both * sizeof(float));
    memcpy(w[C_NORM], attn[GR_ATTN_Q_NORM], both * sizeof(float));
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* What is made of the projections of x, B and C. */
typedef struct inputs {
    gr_tensor raw[N_CONV];  /* what the convolutions read: x, and B, C after their norm                 */
    gr_tensor rstd[N_CONV]; /* of those norms                                                           */
    gr_tensor out[N_CONV];  /* after the convolutions: the core's v, k, q                               */
} inputs;

/* A part by tokens and heads. */
static gr_tensor take_part(gr_arena *a, const gr_mixer_spec *s, int64_t N, int part)
{
    return gr_take3(a, GR_F32, N, part_heads(s, part), part_width(s, part));
}

static inputs take_inputs(const gr_mixer_ctx *c, const gr_tensor *t, int64_t N)
{
    inputs in = {.raw = {t[T_X], t[T_B], t[T_C]}};

    for (int i = 0; i < N_CONV; i++) {
        in.out[i] = take_part(c->scratch, c->spec, N, PART_X + i);
        if (i == 0 || !has_bc_norm(c->spec)) continue;
        in.raw[i] = take_part(c->scratch, c->spec, N, PART_X + i);
        in.rstd[i] = gr_take1(c->scratch, GR_F32, N * part_heads(c->spec, PART_X + i));
    }
    return in;
}

static void take_tape(gr_arena *a, const gr_mixer_spec *s, int64_t N, gr_tensor *t)
{
    for (int i = PART_Z; i <= PART_C; i++) t[T_Z + i] = take_part(a, s, N, i);
    t[T_DT] = gr_take2(a, GR_F32, N, s->n_head);
    t[T_DELTA] = gr_take2(a, GR_F32, N, s->n_head);
    t[T_DECAY] = gr_take2(a, GR_F32, N, s->n_head);
    t[T_Y] = gr_take_heads(a, s, N, s->n_head);
}

/* A part's projection as rows of tokens. */
static gr_tensor rows_of(const gr_tensor *t, int part)
{
    return part == PART_DT ? t[T_DT] : gr_token_rows(t[T_Z + part]);
}

/* Everything linear in x, and the gates. */
static void projections(const gr_mixer_ctx *c, const gr_tensor *t, gr_tensor x)
{
    for (int i = 0; i < N_PART; i++)
        c->op->gemm(rows_of(t, i), x, false, gr_part(c->w[W_IN], part_at(c->spec, i), part_rows(c->spec, i)), true,
                    1.0f, 0.0f, c->stream);
    c->op->softplus(t[T_DELTA], t[T_DT], c->w[DT_BIAS], c->stream);
    c->op->decay(t[T_DECAY], t[T_DT], c->w[A_LOG], c->w[DT_BIAS], c->stream);
}

/* Convolution i's part of its weights, its bias, or their gradients. */
static gr_tensor conv_part(const gr_mixer_spec *s, gr_tensor w, int i)
{
    return gr_part(w, part_at(s, PART_X + i) - part_at(s, PART_X), part_rows(s, PART_X + i));
}

/* history: per convolution the rows before x, or NULL at the start of a document. */
static void core_inputs(const gr_mixer_ctx *c, const inputs *in, const gr_tensor *t, const gr_seq *seq,
                        const gr_tensor *history)
{
    for (int i = 0; i < N_CONV; i++) {
        if (in->rstd[i].data)
            c->op->rmsnorm(gr_head_rows(in->raw[i]), in->rstd[i], gr_head_rows(t[T_X + i]), c->w[B_NORM - 1 + i],
                           BC_EPS, c->stream);
        c->op->conv(gr_token_rows(in->out[i]), gr_token_rows(in->raw[i]), gr_taps(conv_part(c->spec, c->w[CONV], i)),
                    conv_part(c->spec, c->w[CONV_BIAS], i), history ? history[i] : gr_none(), seq, c->stream);
    }
}

static gr_core_args core_args(const gr_mixer_ctx *c, const inputs *in, const gr_tensor *t, const gr_seq *seq)
{
    const gr_mixer_spec *s = c->spec;

    return (gr_core_args){.seq = seq,
                          .n_head = s->n_head,
                          .n_kv_head = s->n_kv_head,
                          .k_dim = state_dim(s),
                          .v_dim = s->head_dim,
                          .chunk = s->chunk,
                          .scale = 1.0f,
                          .q = in->out[T_C - T_X],
                          .k = in->out[T_B - T_X],
                          .v = in->out[0],
                          .gate = {t[T_DECAY], t[T_DELTA]},
                          .o = t[T_Y],
                          .scratch = c->scratch};
}

/* The norm's weight, one row per head. */
static gr_tensor per_head(const gr_mixer_spec *s, gr_tensor w)
{
    return w.data ? gr_as2(w, s->n_head, s->head_dim) : gr_none();
}

/* n = rmsnorm(h) of every head, h = silu(z) y: the norm comes after the gate. n may be h. */
static void gated_output(const gr_mixer_ctx *c, gr_tensor n, gr_tensor h, gr_tensor rstd, const gr_tensor *t)
{
    c->op->swiglu(h, t[T_Z], t[T_Y], c->stream);
    c->op->rmsnorm(gr_head_rows(n), rstd, gr_head_rows(h), per_head(c->spec, c->w[NORM]), NORM_EPS, c->stream);
}

/* From the core's inputs to the output projection's. `h` [N, H, D]. */
static void heart(const gr_mixer_ctx *c, const gr_core_args *a, gr_tensor y, gr_tensor h, gr_tensor rstd,
                  const gr_tensor *t)
{
    c->core->forward(a, c->stream);
    c->op->skip(t[T_Y], a->v, c->w[SKIP], c->stream);
    gated_output(c, h, h, rstd, t);
    gr_project(c, W_OUT, y, gr_token_rows(h));
}

static void forward(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    const gr_mark mark = gr_arena_mark(c->scratch);
    const int64_t N = x.dim[0];
    gr_tape       brief, *t = tape ? tape : &brief;
    gr_tensor     rstd, h;
    inputs        in;

    take_tape(tape ? c->keep : c->scratch, c->spec, N, t->t);
    in = take_inputs(c, t->t, N);
    rstd = gr_take1(c->scratch, GR_F32, N * c->spec->n_head);
    h = gr_take_heads(c->scratch, c->spec, N, c->spec->n_head);
    if (!gr_out_of_memory(c)) {
        const gr_core_args a = core_args(c, &in, t->t, c->seq);

        projections(c, t->t, x);
        core_inputs(c, &in, t->t, c->seq, NULL);
        heart(c, &a, y, h, rstd, t->t);
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* From gradients of the core's inputs `d` to those of the projections, which take the place of in->out. */
static void core_inputs_back(const gr_mixer_ctx *c, const gr_tensor d[N_CONV], const inputs *in, const gr_tensor *t)
{
    for (int i = 0; i < N_CONV; i++) {
        const gr_tensor rows = gr_head_rows(in->out[i]);

        c->op->conv_back(gr_token_rows(in->out[i]), gr_taps(conv_part(c->spec, c->dw[CONV], i)),
                         conv_part(c->spec, c->dw[CONV_BIAS], i), gr_none(), gr_token_rows(d[i]),
                         gr_token_rows(in->raw[i]), gr_taps(conv_part(c->spec, c->w[CONV], i)),
                         conv_part(c->spec, c->w[CONV_BIAS], i), gr_none(), c->seq, c->stream);
        if (in->rstd[i].data)
            c->op->rmsnorm_back(rows, c->dw[B_NORM - 1 + i], rows, gr_head_rows(t[T_X + i]), in->rstd[i],
                                c->w[B_NORM - 1 + i], c->stream);
    }
}

/* dt through the decay and through the step size; dg becomes its gradient. */
static void gates_back(const gr_mixer_ctx *c, gr_tensor dg, gr_tensor d_delta, const gr_tensor *t)
{
    c->op->decay_back(dg, c->dw[A_LOG], c->dw[DT_BIAS], dg, t[T_DECAY], t[T_DT], c->w[A_LOG], c->w[DT_BIAS], c->stream);
    c->op->softplus_back(d_delta, c->dw[DT_BIAS], d_delta, t[T_DT], c->w[DT_BIAS], c->stream);
    c->op->add(dg, d_delta, c->stream);
}

/* d: gradients of the projections, in in_proj's order. */
static void projections_back(const gr_mixer_ctx *c, gr_tensor dx, const gr_tensor d[N_PART], gr_tensor x)
{
    for (int i = 0; i < N_PART; i++) {
        const int64_t   at = part_at(c->spec, i), n = part_rows(c->spec, i);
        const gr_tensor dw = gr_part(c->dw[W_IN], at, n);

        if (dw.data) c->op->gemm(dw, d[i], true, x, false, 1.0f, 1.0f, c->stream);
        if (dx.data)
            c->op->gemm(dx, d[i], false, gr_part(c->w[W_IN], at, n), false, 1.0f, i == 0 ? 0.0f : 1.0f, c->stream);
    }
}

static void backward(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape)
{
    const gr_mark        mark = gr_arena_mark(c->scratch);
    const gr_mixer_spec *s = c->spec;
    const gr_tensor     *t = tape->t;
    const int64_t        N = x.dim[0];
    const int            H = s->n_head;
    const inputs         in = take_inputs(c, t, N);
    const gr_tensor      rstd = gr_take1(c->scratch, GR_F32, N * H), h = gr_take_heads(c->scratch, s, N, H),
                    n = gr_take_heads(c->scratch, s, N, H), d_o = gr_take_heads(c->scratch, s, N, H),
                    dz = gr_take_heads(c->scratch, s, N, H);
    const gr_tensor d[N_CONV] = {take_part(c->scratch, s, N, PART_X), take_part(c->scratch, s, N, PART_B),
                                 take_part(c->scratch, s, N, PART_C)};
    const gr_tensor dg = gr_take2(c->scratch, GR_F32, N, H), d_delta = gr_take2(c->scratch, GR_F32, N, H);

    if (!gr_out_of_memory(c)) {
        const gr_tensor parts[] = {gr_token_rows(dz), gr_token_rows(in.out[0]), gr_token_rows(in.out[1]),
                                   gr_token_rows(in.out[2]), dg};
        gr_core_args    a = core_args(c, &in, t, c->seq);

        /* y = n W_out^T,  n = rmsnorm(h),  h = silu(z) (o + D x) */
        gated_output(c, n, h, rstd, t);
        gr_project_back(c, W_OUT, gr_token_rows(d_o), dy, gr_token_rows(n), 0.0f);
        c->op->rmsnorm_back(gr_head_rows(d_o), per_head(s, c->dw[NORM]), gr_head_rows(d_o), gr_head_rows(h), rstd,
                            per_head(s, c->w[NORM]), c->stream);
        c->op->swiglu_back(dz, d_o, d_o, t[T_Z], t[T_Y], c->stream);

        core_inputs(c, &in, t, c->seq, NULL);
        a.d_o = d_o, a.dv = d[0], a.dk = d[1], a.dq = d[2], a.dgate[0] = dg, a.dgate[1] = d_delta;
        c->core->backward(&a, c->stream);
        c->op->skip_back(d[0], c->dw[SKIP], d_o, a.v, c->w[SKIP], c->stream);

        core_inputs_back(c, d, &in, t);
        gates_back(c, dg, d_delta, t);
        projections_back(c, dx, parts, x);
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

static int state_shape(const gr_mixer_spec *s, int64_t capacity, gr_mixer_state *state)
{
    (void)capacity; /* the point of it all */
    for (int i = 0; i < N_CONV; i++)
        state->t[HIST_X + i] = gr_view2(NULL, GR_F32, s->conv_width - 1, part_rows(s, PART_X + i));
    state->t[STATE] = gr_view3(NULL, GR_F32, s->n_head, state_dim(s), s->head_dim);
    return N_STATE;
}

static void step(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos)
{
    static const int32_t doc[2] = {0, 1};
    const gr_mark        mark = gr_arena_mark(c->scratch);
    const gr_seq         one = {.n = 1, .n_doc = 1, .doc = doc};
    gr_tensor            t[N_TAPE], rstd, h;
    inputs               in;

    (void)pos;
    take_tape(c->scratch, c->spec, 1, t);
    in = take_inputs(c, t, 1);
    rstd = gr_take1(c->scratch, GR_F32, c->spec->n_head);
    h = gr_take_heads(c->scratch, c->spec, 1, c->spec->n_head);
    if (!gr_out_of_memory(c)) {
        gr_core_args a = core_args(c, &in, t, &one);

        projections(c, t, x);
        core_inputs(c, &in, t, &one, c->spec->conv_width > 1 ? &state->t[HIST_X] : NULL);
        for (int i = 0; i < N_CONV; i++) gr_remember(c, state->t[HIST_X + i], in.raw[i]);
        a.state_in[0] = a.state_out[0] = state->t[STATE];
        heart(c, &a, y, h, rstd, t);
    }
    gr_arena_release(c->scratch, mark);
}

/* docs/math.md 10. The core's backward includes replaying the states; projections cost twice as much backward. */
static gr_mixer_cost cost(const gr_mixer_spec *s, int64_t context)
{
    const double H = s->n_head, D = s->head_dim, K = state_dim(s), hid = s->hidden;
    const double C = (double)(context < s->chunk ? context : s->chunk);
    const double proj = 2 * hid * ((double)part_at(s, N_PART) + H * D);
    const double fwd = H * (2 * C * (K + D) + 4 * K * D), bwd = H * (2 * C * (3 * K + 2 * D) + 10 * K * D);

    return (gr_mixer_cost){
        .forward = proj + fwd,
        .backward = 2 * proj + bwd,
        .core_forward = fwd,
        .core_backward = bwd,
        .state_bytes = 4 * (H * K * D + (s->conv_width - 1) * (double)(part_at(s, PART_DT) - part_at(s, PART_X))),
    };
}

static const gr_foreign_option foreign[] = {
    {.ours = "mamba2_init", .theirs = "use_qk_norm", .name = {"mamba_in_the_llama", "priming"}},
    {.ours = "mamba2_state"},
    {.ours = "conv_width"},
    {0}};

const gr_mixer_def gr_mamba2_def = {
    .name = "mamba2",
    .symbol = "M2",
    .prefix = "mamba",
    .source = "Dao, Gu 2024, arXiv:2405.21060; hybrid-model-factory's Mamba2; Wang et al. 2024, arXiv:2408.15237 "
              "(Mamba-in-the-Llama); docs/math.md 1",
    .gain = NORM,
    .foreign = foreign,
    .params = params,
    .from_attention = from_attention,
    .forward = forward,
    .backward = backward,
    .state_shape = state_shape,
    .step = step,
    .cost = cost,
};
