/* kernels/cpu/mixer_swa.c: softmax over a window and sinks against its definition in fp64 with an explicit mask; a
 * window over everything is attention, bit for bit; documents, threads, time; the layer; decoding from a ring. */
/*TEST
np: 1
timeout: 120
*/
#include "tests/unit/keys.h"
#include "util/clock.h"

/* As of attention (test_mixer_attn.c): rounding of products, exp and sums, four times what was measured. */
static const double TOL = 1.2e-6, TOL_BACK = 2.4e-6;

enum { N_OUT = 5 }; /* o, lse, dq, dk, dv */

typedef struct problem {
    const shape *c;
    int          window, sink, threads;
    const char  *type;
    float       *in[4]; /* q, k, v, d_o */
    int64_t      n_in[4], n_out[N_OUT];
} problem;

static problem pose(const shape *c, int window, int sink)
{
    const int64_t N = tokens(c), q = N * c->H * c->K, k = N * c->G * c->K, v = N * c->G * c->V, o = N * c->H * c->V;
    problem       p = {.c = c, .window = window, .sink = sink, .threads = 2, .type = "swa"};

    memcpy(p.n_in, (int64_t[]){q, k, v, o}, sizeof p.n_in);
    memcpy(p.n_out, (int64_t[]){o, N * c->H, q, k, v}, sizeof p.n_out);
    for (int i = 0; i < 4; i++) p.in[i] = uniform(p.n_in[i], (uint64_t)i + 1, -1, 1);
    return p;
}

static void solve(const problem *p, float *const out[N_OUT])
{
    const shape         *c = p->c;
    const int64_t        N = tokens(c);
    const gr_seq         seq = {.n = N, .n_doc = c->n_doc, .doc = c->doc};
    const gr_mixer_core *core = gr_mixer_find(p->type)->cpu;
    gr_core_args         a = {.seq = &seq, .n_head = c->H, .n_kv_head = c->G, .k_dim = c->K, .v_dim = c->V};

    a.window = p->window, a.sink = p->sink;
    a.scale = (float)c->scale;
    a.scratch = scratch;
    a.q = gr_view3(p->in[0], GR_F32, N, c->H, c->K), a.dq = gr_view3(out[2], GR_F32, N, c->H, c->K);
    a.k = gr_view3(p->in[1], GR_F32, N, c->G, c->K), a.dk = gr_view3(out[3], GR_F32, N, c->G, c->K);
    a.v = gr_view3(p->in[2], GR_F32, N, c->G, c->V), a.dv = gr_view3(out[4], GR_F32, N, c->G, c->V);
    a.d_o = gr_view3(p->in[3], GR_F32, N, c->H, c->V), a.o = gr_view3(out[0], GR_F32, N, c->H, c->V);
    a.aux = mat(out[1], N, c->H);
    for (int i = 0; i < N_OUT; i++) poison(out[i], p->n_out[i]);
    omp_set_num_threads(p->threads);
    core->forward(&a, NULL);
    core->backward(&a, NULL);
    omp_set_num_threads(2);
}

static void outputs(const problem *p, float *out[N_OUT])
{
    for (int i = 0; i < N_OUT; i++) out[i] = take(p->n_out[i], 4);
}

static keyset widened(const problem *p)
{
    return (keyset){.far = p->window,
                    .sink = p->sink,
                    .q = widen(p->in[0], p->n_in[0]),
                    .k = widen(p->in[1], p->n_in[1]),
                    .v = widen(p->in[2], p->n_in[2]),
                    .dq = take(p->n_in[0], 8),
                    .dk = take(p->n_in[1], 8),
                    .dv = take(p->n_in[2], 8)};
}

static bool same(const problem *p, float *const a[N_OUT], float *const b[N_OUT])
{
    bool is = true;

    for (int i = 0; i < N_OUT; i++) is = is && !memcmp(a[i], b[i], (size_t)p->n_out[i] * 4);
    return is;
}

static void check_core(const shape *c, int window, int sink)
{
    static const char *const name[N_OUT] = {"o", "lse", "dq", "dk", "dv"};
    problem                  p = pose(c, window, sink);
    const keyset             s = widened(&p);
    double                  *o = take(p.n_out[0], 8), *lse = take(p.n_out[1], 8);
    double                  *want[N_OUT] = {o, lse, s.dq, s.dk, s.dv};
    float                   *out[N_OUT], *again[N_OUT];
    char                     what[128];

    outputs(&p, out), outputs(&p, again);
    keys_oracle(c, &s, 1, o, lse, widen(p.in[3], p.n_in[3]));
    solve(&p, out);
    for (int i = 0; i < N_OUT; i++) {
        snprintf(what, sizeof what, "%s, window %d, sink %d: %s", c->name, window, sink, name[i]);
        CHECK_REL(out[i], want[i], p.n_out[i], i < 2 ? TOL : TOL_BACK, what);
    }
    for (p.threads = 1; p.threads <= 3; p.threads += 2) {
        solve(&p, again);
        CHECK(same(&p, out, again), "%s, window %d, sink %d: other bits with %d threads", c->name, window, sink,
              p.threads);
    }
    if (window >= tokens(c)) {
        p.type = "attn", p.window = 0, p.threads = 2;
        solve(&p, again);
        CHECK(same(&p, out, again), "%s: a window over everything is not attention", c->name);
    }
    take_back();
}

/* ---- the oracle's own gradient --------------------------------------------------------------------- */

typedef struct trial {
    const shape *c;
    const keyset s;
    double      *d_o, *o, *lse;
} trial;

static double trial_loss(const void *ctx)
{
    const trial *t = ctx;

    keys_oracle(t->c, &t->s, 1, t->o, t->lse, NULL);
    return sum_product(t->d_o, t->o, tokens(t->c) * t->c->H * t->c->V);
}

static float *narrow(const double *x, int64_t n)
{
    float *y = take(n, sizeof *y);

    for (int64_t i = 0; i < n; i++) y[i] = (float)x[i];
    return y;
}

static void check_oracle(void)
{
    static const shape c = {"oracle", 3, 4, 2, 6, 5, {0, 1, 9, 24}, 0.7};
    const problem      p = pose(&c, 4, 2);
    trial              t = {&c, widened(&p), widen(p.in[3], p.n_in[3]), take(p.n_out[0], 8), take(p.n_out[1], 8)};

    keys_oracle(&c, &t.s, 1, t.o, t.lse, t.d_o);
    check_grad("oracle's dq", narrow(t.s.dq, p.n_in[0]), NULL, t.s.q, p.n_in[0], trial_loss, &t, 1e-6);
    check_grad("oracle's dk", narrow(t.s.dk, p.n_in[1]), NULL, t.s.k, p.n_in[1], trial_loss, &t, 1e-6);
    check_grad("oracle's dv", narrow(t.s.dv, p.n_in[2]), NULL, t.s.v, p.n_in[2], trial_loss, &t, 1e-6);
    take_back();
}

/* ---- documents, time ------------------------------------------------------------------------------- */

/* Change everything in one document, even to NaN: the others keep every bit. */
static void check_isolation(void)
{
    static const shape c = {"isolation", 5, 4, 2, 24, 24, {0, 13, 14, 37, 161, 400}, 0.2};
    const problem      p = pose(&c, 20, 4);
    float             *out[N_OUT], *now[N_OUT];

    outputs(&p, out), outputs(&p, now);
    solve(&p, out);
    for (int d = 0; d < c.n_doc; d++) {
        problem other = p;

        for (int i = 0; i < 4; i++) {
            const int64_t row = p.n_in[i] / tokens(&c);

            other.in[i] = take(p.n_in[i], 4);
            memcpy(other.in[i], p.in[i], (size_t)p.n_in[i] * 4);
            for (int64_t j = c.doc[d] * row; j < c.doc[d + 1] * row; j++) other.in[i][j] = d % 2 ? NAN : 0.25f;
        }
        solve(&other, now);
        for (int i = 0; i < N_OUT; i++) {
            const int64_t row = p.n_out[i] / tokens(&c), first = c.doc[d] * row, end = c.doc[d + 1] * row;

            CHECK(!memcmp(now[i], out[i], (size_t)first * 4) &&
                      !memcmp(now[i] + end, out[i] + end, (size_t)(p.n_out[i] - end) * 4),
                  "output %d: document %d reaches another", i, d);
            CHECK(memcmp(now[i] + first, out[i] + first, (size_t)(end - first) * 4),
                  "output %d: document %d is ignored", i, d);
        }
    }
    take_back();
}

/* Of 8192 keys a window of 64 with 4 sinks leaves 1/60: were hidden tiles visited, this would take half of attention's
 * time or more. A quarter is far from both, for a busy machine. */
static void check_time(void)
{
    static const shape c = {"long", 1, 2, 1, 16, 16, {0, 8192}, 0.25};
    problem            p = pose(&c, 64, 4);
    float             *out[N_OUT];
    double             t[3];

    outputs(&p, out);
    solve(&p, out); /* pages of memory are there now */
    t[0] = gr_now();
    solve(&p, out);
    t[1] = gr_now();
    p.type = "attn", p.window = 0;
    solve(&p, out);
    t[2] = gr_now();
    CHECK(4 * (t[1] - t[0]) < t[2] - t[1], "a window takes %.3f s, everything %.3f s", t[1] - t[0], t[2] - t[1]);
    take_back();
}

/* ---- the layer ------------------------------------------------------------------------------------- */

enum { HID = 10 };

static double layer8(const void *ctx)
{
    layer        *l = (layer *)ctx;
    const shape  *c = l->c;
    const int64_t N = tokens(c);
    const int     mark = oracle_used;
    const bool    norm = l->spec.qk_norm;
    keyset        s = {.far = l->spec.swa_window, .sink = l->spec.swa_sink};
    double       *o = take(N * c->H * c->V, 8), *y;

    s.q = heads8(l->x8, l->w8[0], norm ? l->w8[4] : NULL, N, c->H, c->K, HID, l->cs8);
    s.k = heads8(l->x8, l->w8[1], norm ? l->w8[5] : NULL, N, c->G, c->K, HID, l->cs8);
    s.v = linear8(l->x8, l->w8[2], N, c->G * c->K, HID);
    keys_oracle(c, &s, 1, o, take(N * c->H, 8), NULL);
    y = linear8(o, l->w8[3], N, HID, c->H * c->K);
    memcpy(l->y8, y, (size_t)(N * HID) * sizeof *y);
    while (oracle_used > mark) gr_free(&oracle_pool[--oracle_used]);
    return sum_product(l->y8, l->dy8, N * HID);
}

static void check_layer(bool qk_norm)
{
    static const shape  c = {"layer", 3, 4, 2, 6, 6, {0, 1, 6, 19}, 0.40824829046386302 /* 6^-1/2 */};
    const gr_mixer     *m = gr_mixer_find("swa");
    const gr_mixer_spec spec = {.hidden = HID, .qk_norm = qk_norm, .swa_window = 5, .swa_sink = 2};
    layer               l;

    layer_open(&l, &c, m->def, m->cpu, NULL, spec);
    l.y8 = take(tokens(&c) * HID, 8);
    CHECK(l.n_param == (qk_norm ? 6 : 4), "%d parameters", l.n_param);
    layer_check(&l, layer8, TOL, 1e-4);
    take_back();
}

/* Windows shorter and longer than a tile and than the text: the ring turns often, once, never. */
static void check_decode(int window, int sink, int64_t n)
{
    const shape         c = {"decode", 1, 6, 2, 16, 16, {0, (int32_t)n}, 0.25};
    const gr_mixer     *m = gr_mixer_find("swa");
    const gr_mixer_spec spec = {.hidden = 20, .qk_norm = sink > 0, .swa_window = window, .swa_sink = sink};
    layer               l;

    layer_open(&l, &c, m->def, m->cpu, NULL, spec);
    layer_decode(&l, TOL, 2.0 * 4 * 2 * 16 * (double)(window + sink < n ? window + sink : n), 2);
    take_back();
}

static void check_definition(void)
{
    const gr_mixer     *m = gr_mixer_find("swa"), *attn = gr_mixer_attention();
    const gr_mixer_spec s = {
        .hidden = 3, .n_head = 2, .n_kv_head = 1, .head_dim = 2, .qk_norm = true, .swa_window = 3, .swa_sink = 1};
    const gr_mixer_cost cost = m->def->cost(&s, 10);
    gr_param_spec       p[GR_MIXER_PARAMS], q[GR_MIXER_PARAMS];
    const int           n = m->def->params(&s, p);
    float               to[6][12] = {{0}}, *w[6];
    const float        *from[6];

    CHECK(gr_mixer_find_symbol("SWA") == m && !strcmp(m->def->prefix, "swa"), "names");
    CHECK(n == 6 && attn->def->params(&s, q) == n, "%d parameters", n);
    for (int i = 0; i < n; i++) {
        CHECK(!strcmp(p[i].name, q[i].name) && !memcmp(p[i].dim, q[i].dim, sizeof p[i].dim), "%s", p[i].name);
        w[i] = to[i], from[i] = uniform(12, (uint64_t)i, -1, 1);
    }
    m->def->from_attention(&s, w, from);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < 12; j++)
            CHECK(to[i][j] == (j < p[i].dim[0] * p[i].dim[1] ? from[i][j] : 0.0f), "%s [%d]", p[i].name, j);
    /* keys seen at 1, 2, ..., 10 tokens: 1 2 3 4 4 4 4 4 4 4 */
    CHECK(cost.core_forward == 4 * 2 * 2 * 3.4 && cost.core_backward == 2.5 * cost.core_forward, "cost of the core %g",
          cost.core_forward);
    CHECK(cost.state_bytes == 2 * 4 * 2 * 4, "state %g", cost.state_bytes);
    take_back();
}

int main(void)
{
    static const shape shapes[] = {
        {"one token", 1, 1, 1, 16, 16, {0, 1}, 0.25},
        {"packed D 64", 6, 4, 4, 64, 64, {0, 13, 14, 37, 61, 200, 201}, 0.125},
        {"packed D 24, group 3", 5, 3, 1, 24, 24, {0, 13, 14, 37, 61, 300}, 0.204},
        {"K 40, V 24", 2, 2, 1, 40, 24, {0, 100, 391}, 0.158},
        {"D 8, group 100", 2, 100, 1, 8, 8, {0, 27, 60}, 0.35},
        {"long", 2, 2, 2, 16, 16, {0, 257, 1100}, 0.25},
    };
    static const int windows[] = {1, 3, 64, 129, 400, 5000}, sinks[] = {0, 4, 150};

    keys_open();
    check_oracle();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t w = 0; w < sizeof windows / sizeof *windows; w++)
            for (size_t s = 0; s < sizeof sinks / sizeof *sinks; s++) check_core(&shapes[i], windows[w], sinks[s]);
    check_isolation();
    check_time();
    check_layer(false);
    check_layer(true);
    check_decode(1, 0, 40);
    check_decode(7, 0, 100);
    check_decode(7, 4, 100);
    check_decode(150, 4, 500);
    check_decode(700, 4, 300);
    check_definition();
    return keys_close();
}
