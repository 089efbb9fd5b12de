/* kernels/cpu/mixer_bmojo.c: one softmax over tokens as they are and tokens faded, against its definition in fp64; the
 * layer over an inner type of the test's own, so simple that fp64 has it in a line, and so over any; decoding; every
 * recurrent type of this build inside it. */
/*TEST
np: 1
timeout: 120
*/
#include "config/options.h"
#include "model/model.h"
#include "tests/unit/keys.h"

/* As of attention (test_mixer_attn.c), and once more rounded by the merge. */
static const double TOL = 2e-6, TOL_BACK = 4e-6;

extern const gr_mixer_core gr_bmojo_cpu;
extern const gr_mixer_def  gr_bmojo_def;

/* ---- the core -------------------------------------------------------------------------------------- */

enum { N_OUT = 8, N_IN = 7 }; /* o, lse, dq, dk, dv, dk', dv', dq';  q, k, v, d_o, k', v', q' */

typedef struct problem {
    const shape *c;
    int          window;
    bool         tied;
    float       *in[N_IN];
    int64_t      n_in[N_IN], n_out[N_OUT];
} problem;

static problem pose(const shape *c, int window, bool tied)
{
    const int64_t N = tokens(c), q = N * c->H * c->K, k = N * c->G * c->K, v = N * c->G * c->V, o = N * c->H * c->V;
    problem       p = {.c = c, .window = window, .tied = tied};

    memcpy(p.n_in, (int64_t[]){q, k, v, o, k, v, q}, sizeof p.n_in);
    memcpy(p.n_out, (int64_t[]){o, N * c->H, q, k, v, k, v, q}, sizeof p.n_out);
    for (int i = 0; i < N_IN; i++) p.in[i] = uniform(p.n_in[i], (uint64_t)i + 1, -1, 1);
    return p;
}

static int n_outputs(const problem *p)
{
    return p->tied ? N_OUT - 1 : N_OUT;
}

static void solve(const problem *p, float *const out[N_OUT], int threads)
{
    const shape  *c = p->c;
    const int64_t N = tokens(c);
    const gr_seq  seq = {.n = N, .n_doc = c->n_doc, .doc = c->doc};
    gr_core_args  a = {.seq = &seq, .n_head = c->H, .n_kv_head = c->G, .k_dim = c->K, .v_dim = c->V};

    a.window = p->window;
    a.scale = (float)c->scale;
    a.scratch = scratch;
    a.q = gr_view3(p->in[0], GR_F32, N, c->H, c->K), a.dq = gr_view3(out[2], GR_F32, N, c->H, c->K);
    a.k = gr_view3(p->in[1], GR_F32, N, c->G, c->K), a.dk = gr_view3(out[3], GR_F32, N, c->G, c->K);
    a.v = gr_view3(p->in[2], GR_F32, N, c->G, c->V), a.dv = gr_view3(out[4], GR_F32, N, c->G, c->V);
    a.d_o = gr_view3(p->in[3], GR_F32, N, c->H, c->V), a.o = gr_view3(out[0], GR_F32, N, c->H, c->V);
    a.more[0] = gr_view3(p->in[4], GR_F32, N, c->G, c->K), a.dmore[0] = gr_view3(out[5], GR_F32, N, c->G, c->K);
    a.more[1] = gr_view3(p->in[5], GR_F32, N, c->G, c->V), a.dmore[1] = gr_view3(out[6], GR_F32, N, c->G, c->V);
    if (!p->tied)
        a.more[2] = gr_view3(p->in[6], GR_F32, N, c->H, c->K), a.dmore[2] = gr_view3(out[7], GR_F32, N, c->H, c->K);
    a.aux = mat(out[1], N, c->H);
    for (int i = 0; i < N_OUT; i++) poison(out[i], p->n_out[i]);
    omp_set_num_threads(threads);
    gr_bmojo_cpu.forward(&a, NULL);
    gr_bmojo_cpu.backward(&a, NULL);
    omp_set_num_threads(2);
}

static void outputs(const problem *p, float *out[N_OUT])
{
    for (int i = 0; i < N_OUT; i++) out[i] = take(p->n_out[i], 4);
}

static void check_core(const shape *c, int window, bool tied)
{
    static const char *const name[N_OUT] = {"o", "lse", "dq", "dk", "dv", "dk'", "dv'", "dq'"};
    problem                  p = pose(c, window, tied);
    keyset                   s[2] = {{.far = window}, {.near = window, .far = 2 * window}};
    double                  *want[N_OUT];
    float                   *out[N_OUT], *again[N_OUT];
    char                     what[128];

    for (int i = 0; i < N_OUT; i++) want[i] = take(p.n_out[i], 8);
    s[0].q = widen(p.in[0], p.n_in[0]), s[0].k = widen(p.in[1], p.n_in[1]), s[0].v = widen(p.in[2], p.n_in[2]);
    s[1].q = tied ? s[0].q : widen(p.in[6], p.n_in[6]);
    s[1].k = widen(p.in[4], p.n_in[4]), s[1].v = widen(p.in[5], p.n_in[5]);
    s[0].dq = want[2], s[0].dk = want[3], s[0].dv = want[4];
    s[1].dq = tied ? want[2] : want[7], s[1].dk = want[5], s[1].dv = want[6];
    keys_oracle(c, s, 2, want[0], want[1], widen(p.in[3], p.n_in[3]));
    outputs(&p, out), outputs(&p, again);
    solve(&p, out, 2);
    for (int i = 0; i < n_outputs(&p); i++) {
        snprintf(what, sizeof what, "%s, window %d%s: %s", c->name, window, tied ? "" : ", untied", name[i]);
        CHECK_REL(out[i], want[i], p.n_out[i], i < 2 ? TOL : TOL_BACK, what);
    }
    for (int threads = 1; threads <= 3; threads += 2) {
        solve(&p, again, threads);
        for (int i = 0; i < n_outputs(&p); i++)
            CHECK(!memcmp(out[i], again[i], (size_t)p.n_out[i] * 4), "%s, window %d: other bits of %s with %d threads",
                  c->name, window, name[i], threads);
    }
    take_back();
}

/* Everything in one document is NaN: the others keep every bit. */
static void check_isolation(void)
{
    static const shape c = {"isolation", 5, 4, 2, 24, 24, {0, 13, 14, 37, 161, 400}, 0.2};
    const problem      p = pose(&c, 20, false);
    float             *out[N_OUT], *now[N_OUT];

    outputs(&p, out), outputs(&p, now);
    solve(&p, out, 2);
    for (int d = 0; d < c.n_doc; d++) {
        problem other = p;

        for (int i = 0; i < N_IN; i++) {
            const int64_t row = p.n_in[i] / tokens(&c);

            other.in[i] = take(p.n_in[i], 4);
            memcpy(other.in[i], p.in[i], (size_t)p.n_in[i] * 4);
            for (int64_t j = c.doc[d] * row; j < c.doc[d + 1] * row; j++) other.in[i][j] = NAN;
        }
        solve(&other, now, 2);
        for (int i = 0; i < N_OUT; i++) {
            const int64_t row = p.n_out[i] / tokens(&c), first = c.doc[d] * row, end = c.doc[d + 1] * row;

            CHECK(!memcmp(now[i], out[i], (size_t)first * 4) &&
                      !memcmp(now[i] + end, out[i] + end, (size_t)(p.n_out[i] - end) * 4),
                  "output %d: document %d reaches another", i, d);
        }
    }
    take_back();
}

/* ---- an inner type: f_t = A x_t + f_{t-1} / 2, reset by documents ---------------------------------- */

enum { HID = 10 };

static int fade_params(const gr_mixer_spec *s, gr_param_spec p[GR_MIXER_PARAMS])
{
    p[0] = (gr_param_spec){"in_proj.weight", 2, {s->hidden, s->hidden, 1}, GR_INIT_NORMAL, true};
    return 1;
}

static void fade_from_attention(const gr_mixer_spec *s, float *const *w, const float *const *attn)
{
    (void)s, (void)attn;
    w[0][0] = 42;
}

/* f += what the tokens before left, or with step -1 the same backwards: the transpose. */
static void fade(float *f, int64_t first, int64_t end, int hid)
{
    for (int64_t t = first + 1; t < end; t++)
        for (int i = 0; i < hid; i++) f[t * hid + i] += 0.5f * f[(t - 1) * hid + i];
}
static void fade_back(float *f, int64_t first, int64_t end, int hid)
{
    for (int64_t t = end - 2; t >= first; t--)
        for (int i = 0; i < hid; i++) f[t * hid + i] += 0.5f * f[(t + 1) * hid + i];
}

static void fade_forward(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    if (tape) tape->t[GR_INNER_TAPE - 1] = gr_take1(c->keep, GR_F32, 1), *(float *)tape->t[GR_INNER_TAPE - 1].data = 5;
    c->op->gemm(y, x, false, c->w[0], true, 1.0f, 0.0f, c->stream);
    for (int d = 0; d < c->seq->n_doc; d++) fade(y.data, c->seq->doc[d], c->seq->doc[d + 1], c->spec->hidden);
}

static void fade_backward(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape)
{
    const gr_mark   mark = gr_arena_mark(c->scratch);
    const gr_tensor d = gr_take2(c->scratch, GR_F32, dy.dim[0], dy.dim[1]);

    CHECK(*(float *)tape->t[GR_INNER_TAPE - 1].data == 5, "the inner tape");
    memcpy(d.data, dy.data, (size_t)gr_count(dy) * 4);
    for (int i = 0; i < c->seq->n_doc; i++) fade_back(d.data, c->seq->doc[i], c->seq->doc[i + 1], c->spec->hidden);
    if (c->dw[0].data) c->op->gemm(c->dw[0], d, true, x, false, 1.0f, 1.0f, c->stream);
    if (dx.data) c->op->gemm(dx, d, false, c->w[0], false, 1.0f, 0.0f, c->stream);
    gr_arena_release(c->scratch, mark);
}

static int fade_state(const gr_mixer_spec *s, int64_t capacity, gr_mixer_state *state)
{
    (void)capacity;
    state->t[0] = gr_view1(NULL, GR_F32, s->hidden);
    return 1;
}

static void fade_step(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos)
{
    (void)pos;
    c->op->gemm(y, x, false, c->w[0], true, 1.0f, 0.0f, c->stream);
    for (int i = 0; i < c->spec->hidden; i++) ((float *)y.data)[i] += 0.5f * ((float *)state->t[0].data)[i];
    memcpy(state->t[0].data, y.data, (size_t)c->spec->hidden * 4);
}

static gr_mixer_cost fade_cost(const gr_mixer_spec *s, int64_t context)
{
    (void)context;
    return (gr_mixer_cost){1000, 2000, 100, 200, 4.0 * s->hidden};
}

static const gr_mixer_core fade_core = {0};
static const gr_mixer_def  fade_def = {.name = "fade",
                                       .prefix = "fade",
                                       .params = fade_params,
                                       .from_attention = fade_from_attention,
                                       .forward = fade_forward,
                                       .backward = fade_backward,
                                       .state_shape = fade_state,
                                       .step = fade_step,
                                       .cost = fade_cost};

/* ---- the layer ------------------------------------------------------------------------------------- */

static double *faded8(const layer *l, const double *A)
{
    double *f = linear8(l->x8, A, tokens(l->c), HID, HID);

    for (int d = 0; d < l->c->n_doc; d++)
        for (int64_t t = l->c->doc[d] + 1; t < l->c->doc[d + 1]; t++)
            for (int i = 0; i < HID; i++) f[t * HID + i] += 0.5 * f[(t - 1) * HID + i];
    return f;
}

/* Parameters: q k v o (q_norm k_norm); untied: q_ k_ v_ (q_norm_ k_norm_); A. */
static double layer8(const void *ctx)
{
    layer               *l = (layer *)ctx;
    const shape         *c = l->c;
    const gr_mixer_spec *sp = &l->spec;
    const int64_t        N = tokens(c);
    const int            mark = oracle_used, W = sp->bmojo_window, n = sp->qk_norm ? 6 : 4;
    double *const       *w = l->w8;
    double *const       *u = sp->bmojo_tied ? w : w + n; /* the second q, k, v */
    const double        *qn = sp->qk_norm ? w[4] : NULL, *kn = sp->qk_norm ? w[5] : NULL;
    const double        *qn2 = sp->bmojo_tied || !qn ? qn : u[3], *kn2 = sp->bmojo_tied || !kn ? kn : u[4];
    const double        *f = faded8(l, w[l->n_param - 1]);
    keyset               s[2] = {{.far = W}, {.near = W, .far = 2 * W}};
    double              *o = take(N * c->H * c->V, 8), *y;

    s[0].q = heads8(l->x8, w[0], qn, N, c->H, c->K, HID, l->cs8);
    s[0].k = heads8(l->x8, w[1], kn, N, c->G, c->K, HID, l->cs8);
    s[0].v = linear8(l->x8, w[2], N, c->G * c->K, HID);
    s[1].q = heads8(l->x8, u[0], qn2, N, c->H, c->K, HID, l->cs8);
    s[1].k = heads8(f, u[1], kn2, N, c->G, c->K, HID, l->cs8);
    s[1].v = linear8(f, u[2], N, c->G * c->K, HID);
    keys_oracle(c, s, 2, o, take(N * c->H, 8), NULL);
    y = linear8(o, w[3], N, HID, c->H * c->K);
    memcpy(l->y8, y, (size_t)(N * HID) * sizeof *y);
    while (oracle_used > mark) gr_free(&oracle_pool[--oracle_used]);
    return sum_product(l->y8, l->dy8, N * HID);
}

static void check_layer(bool qk_norm, bool tied)
{
    static const shape  c = {"layer", 3, 4, 2, 6, 6, {0, 1, 8, 25}, 0.40824829046386302 /* 6^-1/2 */};
    const gr_mixer_spec spec = {
        .hidden = HID, .qk_norm = qk_norm, .bmojo_window = 3, .bmojo_tied = tied, .bmojo_inner = &fade_def};
    layer l;

    layer_open(&l, &c, &gr_bmojo_def, &gr_bmojo_cpu, &fade_core, spec);
    l.y8 = take(tokens(&c) * HID, 8);
    CHECK(l.n_param == (qk_norm ? tied ? 7 : 12 : tied ? 5 : 8), "%d parameters", l.n_param);
    layer_check(&l, layer8, TOL, 1e-4);
    take_back();
}

/* The rings turn often, once, never; the second window never opens, or half. */
static void check_decode(int window, int64_t n, bool tied)
{
    const shape         c = {"decode", 1, 6, 2, 16, 16, {0, (int32_t)n}, 0.25};
    const gr_mixer_spec spec = {
        .hidden = 20, .qk_norm = tied, .bmojo_window = window, .bmojo_tied = tied, .bmojo_inner = &fade_def};
    const int64_t rows = n < window ? n : window, old = n < 2 * window ? n - rows : window;
    layer         l;

    layer_open(&l, &c, &gr_bmojo_def, &gr_bmojo_cpu, &fade_core, spec);
    layer_decode(&l, TOL, 2.0 * 4 * 2 * 16 * (double)(2 * rows + old) + 4 * 20, 4);
    take_back();
}

static const char *const expected[] = {
    "bmojo_attn.q_proj.weight",  "bmojo_attn.k_proj.weight",  "bmojo_attn.v_proj.weight",  "bmojo_attn.o_proj.weight",
    "bmojo_attn.q_norm.weight",  "bmojo_attn.k_norm.weight",  "bmojo_attn.q_proj_.weight", "bmojo_attn.k_proj_.weight",
    "bmojo_attn.v_proj_.weight", "bmojo_attn.q_norm_.weight", "bmojo_attn.k_norm_.weight", "fade.in_proj.weight",
};

static void check_definition(void)
{
    static const int    source[] = {0, 1, 2, 3, 4, 5, 0, 1, 2, 4, 5};
    const gr_mixer_spec s = {.hidden = 4,
                             .n_head = 2,
                             .n_kv_head = 1,
                             .head_dim = 2,
                             .qk_norm = true,
                             .bmojo_window = 2,
                             .bmojo_inner = &fade_def};
    gr_mixer_spec       tied = s;
    const gr_mixer_cost cost = gr_bmojo_def.cost(&s, 10);
    gr_param_spec       p[GR_MIXER_PARAMS];
    const int           n = gr_bmojo_def.params(&s, p);
    float               to[12][16] = {{0}}, *w[12];
    const float        *from[6];

    CHECK(gr_mixer_find_symbol("BMF")->def == &gr_bmojo_def && !strcmp(gr_bmojo_def.prefix, "bmojo_f"), "names");
    CHECK(n == 12, "%d parameters", n);
    for (int i = 0; i < 6; i++) from[i] = uniform(16, (uint64_t)i, -1, 1);
    for (int i = 0; i < 12; i++) {
        CHECK(!strcmp(p[i].name, expected[i]), "parameter %d is %s", i, p[i].name);
        w[i] = to[i];
    }
    gr_bmojo_def.from_attention(&s, w, from);
    for (int i = 0; i < 11; i++)
        for (int j = 0; j < 16; j++)
            CHECK(to[i][j] == (j < p[i].dim[0] * p[i].dim[1] ? from[source[i]][j] : 0.0f), "%s [%d]", p[i].name, j);
    CHECK(to[11][0] == 42, "the inner type is not initialised");
    /* keys seen at 1, 2, ..., 10 tokens: 1 2 3 4 4 4 4 4 4 4 */
    CHECK(cost.core_forward == 4 * 2 * 2 * 3.4 + 100, "cost of the core %g", cost.core_forward);
    tied.bmojo_tied = true;
    CHECK(cost.forward - gr_bmojo_def.cost(&tied, 10).forward == 2 * 4 * 4, "cost of a second query");
    CHECK(cost.state_bytes == 2 * 4 * 2 * (2 + 4) + 16, "state %g", cost.state_bytes);
    take_back();
}

/* Each recurrent type of this build, inside: it fits, decoding equals forward, and it can be configured. */
static void check_inner(const gr_mixer *m)
{
    const shape         c = {m->def->name, 1, 4, 2, 16, 16, {0, 90}, 0.25};
    const gr_model_spec model = {.hidden = 24, .mixer = gr_options_default()};
    gr_mixer_spec       spec = gr_mixer_spec_of(&model);
    gr_param_spec       p[GR_MIXER_PARAMS];
    gr_mixer_state      state = {0};
    gr_cfg_mixer        o;
    json_t             *tree = NULL;
    layer               l;

    spec.chunk = 16, spec.bmojo_window = 20, spec.bmojo_inner = m->def;
    layer_open(&l, &c, &gr_bmojo_def, &gr_bmojo_cpu, m->cpu, spec);
    CHECK(m->def->params(&l.spec, p) <= GR_INNER_PARAMS, "%s has too many parameters to be contained", m->def->name);
    CHECK(m->def->state_shape(&l.spec, 1, &state) <= GR_INNER_STATES, "%s has too many states to be contained",
          m->def->name);
    for (int i = 0; i < l.n_param; i++) CHECK(l.param[i].name[0], "%s: a name is too long", m->def->name);
    layer_decode(&l, 1e-4, l.def->cost(&l.spec, 90).state_bytes, 4);
    tree = json_pack("{s:s}", "bmojo_inner", m->def->name);
    CHECK(gr_options_parse(&o, tree, "test") == GR_OK, "mixer.bmojo_inner does not know %s", m->def->name);
    json_decref(tree);
    take_back();
}

int main(void)
{
    static const shape shapes[] = {
        {"one token", 1, 1, 1, 16, 16, {0, 1}, 0.25},
        {"packed D 64", 6, 4, 4, 64, 64, {0, 13, 14, 37, 61, 200, 201}, 0.125},
        {"packed D 24, group 3", 5, 3, 1, 24, 24, {0, 13, 14, 37, 61, 300}, 0.204},
        {"K 40, V 24", 2, 2, 1, 40, 24, {0, 100, 391}, 0.158},
        {"long", 2, 2, 2, 16, 16, {0, 257, 1100}, 0.25},
    };
    static const int windows[] = {1, 3, 64, 129, 400};

    keys_open();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) check_core(&shapes[i], windows[w], (i + w) % 2);
    check_isolation();
    for (int i = 0; i < 4; i++) check_layer(i & 1, i & 2);
    for (int tied = 0; tied < 2; tied++) {
        check_decode(1, 12, tied);
        check_decode(7, 100, tied);
        check_decode(150, 330, tied);
        check_decode(150, 220, tied);
        check_decode(150, 90, tied);
    }
    check_definition();
    for (int i = 0; i < gr_n_mixers; i++)
        if (!gr_mixers[i].def->attends) check_inner(&gr_mixers[i]);
    return keys_close();
}
