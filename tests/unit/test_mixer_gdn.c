/* The core of Gated DeltaNet on cpu, against the recurrence token by token in fp64.
 *
 * Inputs of a problem are one flat array, [q | k | v | g | beta | state_in], outputs another, [o | state_out]; a
 * gradient is shaped as the inputs. The scalar differentiated is <w, outputs> with random w = [d_o | dstate_out]. The
 * oracle's own gradient is confirmed by central differences along random directions. */
/*TEST
np: 1
timeout: 60
*/
#include "kernels/mixer.h"
#include "tests/check.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

extern const gr_mixer_core gr_gdn_cpu;

enum { Q, KEY, VAL, DECAY, BETA, STATE, N_IN, O = 0, STATE_OUT, N_OUT, MAX_DOC = 8 };
static const char *const in_name[] = {"dq", "dk", "dv", "dg", "dbeta", "dstate_in"};
static const char *const out_name[] = {"o", "state_out"};

typedef struct problem {
    int     N, H, G, K, V, C, n_doc;
    int32_t doc[MAX_DOC + 1];
    bool    carry;        /* with state_in, dstate_in, dstate_out */
    double  g_min, b_max; /* g in [g_min, 0], beta in [0, b_max]  */
} problem;

#define TOL (gr_gdn_cpu.tol)

static gr_arena *arena;

/* ---- flat arrays ------------------------------------------------------------------------------------------------ */

static int64_t in_size(const problem *p, int part)
{
    const int64_t n[N_IN] = {(int64_t)p->N * p->H * p->K, (int64_t)p->N * p->G * p->K, (int64_t)p->N * p->G * p->V,
                             (int64_t)p->N * p->H,        (int64_t)p->N * p->H,        (int64_t)p->H * p->K * p->V};
    return n[part];
}

static int64_t in_at(const problem *p, int part)
{
    int64_t at = 0;

    for (int i = 0; i < part; i++) at += in_size(p, i);
    return at;
}

static int64_t out_size(const problem *p, int part)
{
    return part == O ? (int64_t)p->N * p->H * p->V : (int64_t)p->H * p->K * p->V;
}

static int64_t out_at(const problem *p, int part)
{
    return part == O ? 0 : part == STATE_OUT ? out_size(p, O) : out_size(p, O) + out_size(p, STATE_OUT);
}

static void *memory(int64_t n, int size)
{
    void *p = NULL;

    if (gr_alloc(&p, (uint64_t)n, (uint64_t)size, "test") != GR_OK) exit(1);
    return p;
}

static uint64_t seed = 7;

static double uniform(void) /* [0, 1), and a float */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 40) / 16777216.0;
}

static double normal(void) /* variance 1 */
{
    double s = 0;

    for (int i = 0; i < 12; i++) s += uniform();
    return s - 6;
}

static void draw_inputs(const problem *p, float *x)
{
    const int64_t n_key = in_size(p, Q) + in_size(p, KEY);

    for (int64_t i = 0; i < n_key; i += p->K) { /* unit rows */
        double sum = 0;
        for (int d = 0; d < p->K; d++) x[i + d] = (float)normal(), sum += (double)x[i + d] * x[i + d];
        for (int d = 0; d < p->K; d++) x[i + d] = (float)(x[i + d] / sqrt(sum));
    }
    for (int64_t i = in_at(p, VAL); i < in_at(p, DECAY); i++) x[i] = (float)normal();
    for (int64_t i = in_at(p, DECAY); i < in_at(p, BETA); i++) x[i] = (float)(p->g_min * uniform());
    for (int64_t i = in_at(p, BETA); i < in_at(p, STATE); i++) x[i] = (float)(p->b_max * uniform());
    for (int64_t i = in_at(p, STATE); i < in_at(p, N_IN); i++) x[i] = p->carry ? (float)normal() : 0.0f;
}

static void draw_weights(const problem *p, float *w)
{
    for (int64_t i = 0; i < out_at(p, N_OUT); i++) w[i] = i < out_size(p, O) || p->carry ? (float)normal() : 0.0f;
}

static double *widen(const float *x, int64_t n)
{
    double *y = memory(n, sizeof *y);

    for (int64_t i = 0; i < n; i++) y[i] = x[i];
    return y;
}

/* ---- oracle ----------------------------------------------------------------------------------------------------- */

/* S [N + 1, K, V]: the states of one head; state after token t at S[t + 1], the one it starts from is computed anew. */
static void oracle_head(const problem *p, int h, const double *x, double *y, const double *w, double *dx)
{
    const int     K = p->K, V = p->V, kv = h / (p->H / p->G);
    const int64_t KV = (int64_t)K * V;
    const double  scale = 1 / sqrt(K);
    double *S = memory((p->N + 1) * KV, sizeof *S), *u = memory(p->N * V, sizeof *u), *e = memory(p->N * V, sizeof *e);
    double *dS = memory(KV, sizeof *dS), *du = memory(V, sizeof *du);

#define IN(part, base, t, n, i, width) ((base) + in_at(p, part) + ((int64_t)(t) * (n) + (i)) * (width))
    for (int d = 0; d < p->n_doc; d++) {
        double *first = S + p->doc[d] * KV; /* the state after the previous document is done with by then */

        for (int64_t i = 0; i < KV; i++) first[i] = d == 0 ? x[in_at(p, STATE) + h * KV + i] : 0;
        for (int t = p->doc[d]; t < p->doc[d + 1]; t++) {
            const double *q = IN(Q, x, t, p->H, h, K), *k = IN(KEY, x, t, p->G, kv, K), *v = IN(VAL, x, t, p->G, kv, V);
            const double  a = exp(*IN(DECAY, x, t, p->H, h, 1)), b = *IN(BETA, x, t, p->H, h, 1);
            const double *S0 = S + t * KV;
            double       *S1 = S + (t + 1) * KV, *o = y + ((int64_t)t * p->H + h) * V;

            for (int j = 0; j < V; j++) {
                double err = v[j], out = 0;
                for (int i = 0; i < K; i++) err -= k[i] * a * S0[i * V + j];
                e[t * V + j] = err, u[t * V + j] = b * err;
                for (int i = 0; i < K; i++) S1[i * V + j] = a * S0[i * V + j] + k[i] * b * err;
                for (int i = 0; i < K; i++) out += q[i] * S1[i * V + j];
                o[j] = scale * out;
            }
        }
        if (d == p->n_doc - 1) memcpy(y + out_at(p, STATE_OUT) + h * KV, S + p->N * KV, (size_t)KV * sizeof *S);

        /* Backward while this document's states are there; dS is the gradient of the state after token t. */
        if (!dx) continue;
        for (int64_t i = 0; i < KV; i++) dS[i] = d == p->n_doc - 1 ? w[out_at(p, STATE_OUT) + h * KV + i] : 0;
        for (int t = p->doc[d + 1] - 1; t >= p->doc[d]; t--) {
            const double *q = IN(Q, x, t, p->H, h, K), *k = IN(KEY, x, t, p->G, kv, K),
                         *d_o = w + ((int64_t)t * p->H + h) * V;
            const double  a = exp(*IN(DECAY, x, t, p->H, h, 1)), b = *IN(BETA, x, t, p->H, h, 1);
            const double *S0 = S + t * KV, *S1 = S + (t + 1) * KV;
            double *dq = IN(Q, dx, t, p->H, h, K), *dk = IN(KEY, dx, t, p->G, kv, K), *dv = IN(VAL, dx, t, p->G, kv, V);
            double *dg = IN(DECAY, dx, t, p->H, h, 1), *db = IN(BETA, dx, t, p->H, h, 1);

            for (int i = 0; i < K; i++)
                for (int j = 0; j < V; j++) {
                    dq[i] += scale * S1[i * V + j] * d_o[j];
                    dS[i * V + j] += scale * q[i] * d_o[j];
                }
            for (int j = 0; j < V; j++) { /* S1 = a S0 + k^T b (v - k a S0) */
                du[j] = 0;
                for (int i = 0; i < K; i++) du[j] += k[i] * dS[i * V + j];
                *db += du[j] * e[t * V + j];
                dv[j] += b * du[j];
            }
            for (int i = 0; i < K; i++)
                for (int j = 0; j < V; j++) {
                    dk[i] += dS[i * V + j] * u[t * V + j] - a * S0[i * V + j] * b * du[j];
                    dS[i * V + j] -= k[i] * b * du[j];
                    *dg += a * S0[i * V + j] * dS[i * V + j];
                    dS[i * V + j] *= a;
                }
        }
        if (d == 0) memcpy(dx + in_at(p, STATE) + h * KV, dS, (size_t)KV * sizeof *dS);
    }
    gr_free(&S), gr_free(&u), gr_free(&e), gr_free(&dS), gr_free(&du);
}

/* y [outputs]; dx [inputs] or NULL. */
static void oracle(const problem *p, const double *x, double *y, const double *w, double *dx)
{
    if (dx) memset(dx, 0, (size_t)in_at(p, N_IN) * sizeof *dx);
    for (int h = 0; h < p->H; h++) oracle_head(p, h, x, y, w, dx);
}

static double inner(int64_t n, const double *a, const double *b)
{
    double s = 0;

    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

/* d/dh <w, y(x + h r)> by central differences against <dx, r>. */
static void check_oracle(const problem *p, const double *x, const double *w, const double *dx)
{
    const int64_t n = in_at(p, N_IN), m = out_at(p, N_OUT);
    const double  h = 1e-6;
    double       *r = memory(n, sizeof *r), *x1 = memory(n, sizeof *x1), *y = memory(m, sizeof *y);

    for (int part = 0; part < N_IN; part++) {
        double f[2], d;

        memset(r, 0, (size_t)n * sizeof *r);
        for (int64_t i = in_at(p, part); i < in_at(p, part + 1); i++) r[i] = normal();
        for (int side = 0; side < 2; side++) {
            for (int64_t i = 0; i < n; i++) x1[i] = x[i] + (side ? h : -h) * r[i];
            oracle(p, x1, y, NULL, NULL);
            f[side] = inner(m, w, y);
        }
        d = inner(n, dx, r);
        CHECK(fabs((f[1] - f[0]) / (2 * h) - d) <= 1e-6 * (1 + fabs(d)),
              "oracle's %s: difference quotient %.9g, gradient %.9g", in_name[part], (f[1] - f[0]) / (2 * h), d);
    }
    gr_free(&r), gr_free(&x1), gr_free(&y);
}

/* ---- the core under test ---------------------------------------------------------------------------------------- */

static gr_tensor in_view(const problem *p, float *x, int part)
{
    const int64_t heads[] = {p->H, p->G, p->G, p->H, p->H, p->K}, width[] = {p->K, p->K, p->V, 1, 1, p->V};

    return gr_view3(x + in_at(p, part), GR_F32, part == STATE ? p->H : p->N, heads[part], width[part]);
}

/* Outputs and gradients are poisoned first: whatever is not written shows. w, dx NULL: forward only. */
static void run(const problem *p, float *x, float *y, float *w, float *dx)
{
    const int32_t none[2] = {0, 0};
    gr_seq        seq = {.n = p->N, .n_doc = p->n_doc, .doc = p->n_doc ? p->doc : none};
    gr_core_args  a = {
         .seq = &seq,
         .n_head = p->H,
         .n_kv_head = p->G,
         .k_dim = p->K,
         .v_dim = p->V,
         .chunk = p->C,
         .scale = (float)(1 / sqrt(p->K)),
         .q = in_view(p, x, Q),
         .k = in_view(p, x, KEY),
         .v = in_view(p, x, VAL),
         .gate = {in_view(p, x, DECAY), in_view(p, x, BETA)},
         .o = gr_view3(y, GR_F32, p->N, p->H, p->V),
         .state_in[0] = p->carry ? in_view(p, x, STATE) : gr_none(),
         .state_out[0] = gr_view3(y + out_at(p, STATE_OUT), GR_F32, p->H, p->K, p->V),
         .scratch = arena,
    };

    for (int64_t i = 0; i < out_at(p, N_OUT); i++) y[i] = NAN;
    gr_gdn_cpu.forward(&a, NULL);
    if (!dx) return;
    for (int64_t i = 0; i < in_at(p, N_IN); i++) dx[i] = NAN;
    a.d_o = gr_view3(w, GR_F32, p->N, p->H, p->V);
    a.dq = in_view(p, dx, Q), a.dk = in_view(p, dx, KEY), a.dv = in_view(p, dx, VAL);
    a.dgate[0] = in_view(p, dx, DECAY), a.dgate[1] = in_view(p, dx, BETA);
    if (p->carry) {
        a.dstate_out[0] = gr_view3(w + out_at(p, STATE_OUT), GR_F32, p->H, p->K, p->V);
        a.dstate_in[0] = in_view(p, dx, STATE);
    }
    gr_gdn_cpu.backward(&a, NULL);
}

static void compare(const problem *p, const char *what, double tol, const float *y, const double *y_ref,
                    const float *dx, const double *dx_ref)
{
    char name[128];

    for (int i = 0; i < N_OUT; i++) {
        snprintf(name, sizeof name, "%s: %s", what, out_name[i]);
        CHECK_REL(y + out_at(p, i), y_ref + out_at(p, i), out_size(p, i), tol, name);
    }
    for (int i = 0; i < N_IN - !p->carry && dx; i++) {
        snprintf(name, sizeof name, "%s: %s", what, in_name[i]);
        if (p->g_min < -50 && i == STATE) { /* e^-100 or so: below the normal numbers of fp32, which keep no digits */
            CHECK(check_rel(dx + in_at(p, i), dx_ref + in_at(p, i), in_size(p, i)) < INFINITY, "%s is not finite",
                  name);
            continue;
        }
        CHECK_REL(dx + in_at(p, i), dx_ref + in_at(p, i), in_size(p, i), tol, name);
    }
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */

typedef struct buffers { /* of one problem */
    float  *x, *y, *w, *dx, *y2, *dx2;
    double *x64, *y64, *w64, *dx64;
} buffers;

static buffers open_problem(const problem *p)
{
    const int64_t n = in_at(p, N_IN), m = out_at(p, N_OUT);
    buffers       b = {.x = memory(n, 4),
                       .dx = memory(n, 4),
                       .dx2 = memory(n, 4),
                       .y = memory(m, 4),
                       .y2 = memory(m, 4),
                       .w = memory(m, 4),
                       .y64 = memory(m, 8),
                       .dx64 = memory(n, 8)};

    draw_inputs(p, b.x);
    draw_weights(p, b.w);
    return b;
}

static void close_problem(buffers *b)
{
    gr_free(&b->x), gr_free(&b->y), gr_free(&b->w), gr_free(&b->dx), gr_free(&b->y2), gr_free(&b->dx2);
    gr_free(&b->x64), gr_free(&b->y64), gr_free(&b->w64), gr_free(&b->dx64);
}

static void run_oracle(const problem *p, buffers *b)
{
    b->x64 = widen(b->x, in_at(p, N_IN)), b->w64 = widen(b->w, out_at(p, N_OUT));
    oracle(p, b->x64, b->y64, b->w64, b->dx64);
}

static void test_oracle_gradient(void)
{
    const problem p = {.N = 23,
                       .H = 2,
                       .G = 1,
                       .K = 5,
                       .V = 7,
                       .n_doc = 2,
                       .doc = {0, 9, 23},
                       .carry = true,
                       .g_min = -0.5,
                       .b_max = 1};
    buffers       b = open_problem(&p);

    run_oracle(&p, &b);
    check_oracle(&p, b.x64, b.w64, b.dx64);
    close_problem(&b);
}

static void test_against_oracle(void)
{
    static const problem base[] = {
        {.N = 61, .H = 2, .G = 2, .K = 16, .V = 20, .n_doc = 1, .doc = {0, 61}, .g_min = -0.3, .b_max = 1},
        {.N = 61, .H = 4, .G = 2, .K = 16, .V = 20, .n_doc = 4, .doc = {0, 13, 14, 37, 61}, .g_min = -0.3, .b_max = 1},
        {.N = 150, .H = 3, .G = 1, .K = 24, .V = 16, .n_doc = 1, .doc = {0, 150}, .g_min = -0.3, .b_max = 1},
        {.N = 150, .H = 2, .G = 1, .K = 20, .V = 36, .n_doc = 2, .doc = {0, 150, 150}, .g_min = -0.1, .b_max = 2},
        {.N = 130, .H = 1, .G = 1, .K = 64, .V = 64, .n_doc = 3, .doc = {0, 1, 66, 130}, .g_min = -0.05, .b_max = 2},
        {.N = 61, .H = 1, .G = 1, .K = 16, .V = 16, .n_doc = 1, .doc = {0, 61}, .g_min = -100, .b_max = 1}, /* sum g =
                                                                                                               -3000 */
        {.N = 1, .H = 6, .G = 2, .K = 16, .V = 20, .n_doc = 1, .doc = {0, 1}, .g_min = -0.3, .b_max = 1},
    };
    static const int chunk[] = {16, 32, 64, 256};

    for (int i = 0; i < (int)(sizeof base / sizeof *base); i++)
        for (int c = 0; c < 4; c++)
            for (int carry = 0; carry < 2; carry++) {
                problem p = base[i];
                buffers b;
                char    what[64];

                p.C = chunk[c], p.carry = carry;
                b = open_problem(&p);
                run_oracle(&p, &b);
                run(&p, b.x, b.y, b.w, b.dx);
                snprintf(what, sizeof what, "problem %d, chunk %d, carry %d", i, chunk[c], carry);
                compare(&p, what, TOL, b.y, b.y64, b.dx, b.dx64);
                close_problem(&b);
            }
}

/* What breaks careless chunk algorithms. With beta = 2 on one and the same key the state flips sign at each token, and
 * all that was ever written stays: errors add up (measured 1.6e-5), hence the tolerance. */
static void test_hard_inputs(void)
{
    const problem p = {.N = 64,
                       .H = 1,
                       .G = 1,
                       .K = 16,
                       .V = 16,
                       .C = 64,
                       .n_doc = 1,
                       .doc = {0, 64},
                       .carry = true,
                       .g_min = -0.01,
                       .b_max = 1};

    for (int which = 0; which < 4; which++) {
        static const char *const what[] = {"identical keys, beta 1", "identical keys, beta 2", "one decay of -3000",
                                           "beta 0"};
        buffers                  b = open_problem(&p);

        for (int t = 0; t < p.N; t++) {
            if (which < 2)
                memcpy(b.x + in_at(&p, KEY) + (int64_t)t * p.K, b.x + in_at(&p, KEY), (size_t)p.K * sizeof(float));
            if (which != 2) b.x[in_at(&p, BETA) + t] = which == 0 ? 1 : which == 1 ? 2 : 0;
        }
        if (which == 2) b.x[in_at(&p, DECAY) + 20] = -3000;
        run_oracle(&p, &b);
        run(&p, b.x, b.y, b.w, b.dx);
        compare(&p, what[which], which == 1 ? 1e-4 : TOL, b.y, b.y64, b.dx, b.dx64);
        close_problem(&b);
    }
}

static void test_long(void)
{
    const problem p = {.N = 4096,
                       .H = 1,
                       .G = 1,
                       .K = 16,
                       .V = 16,
                       .C = 64,
                       .n_doc = 1,
                       .doc = {0, 4096},
                       .carry = true,
                       .g_min = -0.002,
                       .b_max = 1};
    buffers       b = open_problem(&p);

    run_oracle(&p, &b);
    run(&p, b.x, b.y, b.w, b.dx);
    compare(&p, "4096 tokens", TOL, b.y, b.y64, b.dx, b.dx64);
    close_problem(&b);
}

/* Tokens [from, to) of a problem as one of its own, copied out or back. */
static problem slice(const problem *p, int from, int to)
{
    problem s = *p;

    s.N = to - from, s.n_doc = 0;
    for (int d = 0; d < p->n_doc; d++) {
        const int a = p->doc[d] > from ? p->doc[d] : from, e = p->doc[d + 1] < to ? p->doc[d + 1] : to;
        if (a < e) s.doc[s.n_doc++] = a - from, s.doc[s.n_doc] = e - from;
    }
    return s;
}

static void copy_tokens(const problem *s, float *part, const problem *p, float *whole, int from, bool back)
{
    for (int i = 0; i < STATE; i++) {
        float       *a = part + in_at(s, i), *b = whole + in_at(p, i) + from * (in_size(p, i) / p->N);
        const size_t n = (size_t)in_size(s, i) * sizeof *a;
        memcpy(back ? b : a, back ? a : b, n);
    }
}

/* Cut at `cut`, the state carried right and its gradient carried left: the same as the whole. */
static void test_split(int cut)
{
    const problem p = {.N = 100,
                       .H = 2,
                       .G = 1,
                       .K = 16,
                       .V = 20,
                       .C = 32,
                       .n_doc = 3,
                       .doc = {0, 30, 90, 100},
                       .carry = true,
                       .g_min = -0.2,
                       .b_max = 2};
    const problem l = slice(&p, 0, cut), r = slice(&p, cut, p.N);
    const int64_t state = in_size(&p, STATE), row = p.H * p.V;
    const bool    fresh = cut == 30 || cut == 90; /* a document starts at the cut: nothing crosses */
    buffers       b = open_problem(&p), bl = open_problem(&l), br = open_problem(&r);
    char          what[32];

    run_oracle(&p, &b);
    copy_tokens(&l, bl.x, &p, b.x, 0, false);
    copy_tokens(&r, br.x, &p, b.x, cut, false);
    memcpy(bl.x + in_at(&l, STATE), b.x + in_at(&p, STATE), (size_t)state * 4);
    memcpy(bl.w, b.w, (size_t)(cut * row) * 4);
    memcpy(br.w, b.w + cut * row, (size_t)((p.N - cut) * row + state) * 4);

    run(&l, bl.x, bl.y, NULL, NULL);
    memcpy(br.x + in_at(&r, STATE), bl.y + out_at(&l, STATE_OUT), (size_t)state * 4);
    if (fresh) memset(br.x + in_at(&r, STATE), 0, (size_t)state * 4);
    run(&r, br.x, br.y, br.w, br.dx);
    memcpy(bl.w + out_at(&l, STATE_OUT), br.dx + in_at(&r, STATE), (size_t)state * 4);
    if (fresh) memset(bl.w + out_at(&l, STATE_OUT), 0, (size_t)state * 4);
    run(&l, bl.x, bl.y, bl.w, bl.dx);

    memcpy(b.y, bl.y, (size_t)(cut * row) * 4);
    memcpy(b.y + cut * row, br.y, (size_t)((p.N - cut) * row + state) * 4);
    copy_tokens(&l, bl.dx, &p, b.dx, 0, true);
    copy_tokens(&r, br.dx, &p, b.dx, cut, true);
    memcpy(b.dx + in_at(&p, STATE), bl.dx + in_at(&l, STATE), (size_t)state * 4);
    snprintf(what, sizeof what, "cut at %d", cut);
    compare(&p, what, TOL, b.y, b.y64, b.dx, b.dx64);
    close_problem(&b), close_problem(&bl), close_problem(&br);
}

/* Token by token with the state updated in place, as decoding does. */
static void test_tokens(void)
{
    const problem p = {.N = 50,
                       .H = 4,
                       .G = 2,
                       .K = 16,
                       .V = 20,
                       .C = 16,
                       .n_doc = 1,
                       .doc = {0, 50},
                       .carry = true,
                       .g_min = -0.3,
                       .b_max = 1};
    const int64_t state = in_size(&p, STATE);
    buffers       b = open_problem(&p);
    float        *S = memory(state, 4);

    run_oracle(&p, &b);
    memcpy(S, b.x + in_at(&p, STATE), (size_t)state * 4);
    for (int t = 0; t < p.N; t++) {
        const problem one = slice(&p, t, t + 1);
        const gr_seq  seq = {.n = 1, .n_doc = 1, .doc = one.doc};
        float        *x = memory(in_at(&one, N_IN), 4);
        gr_core_args  a = {.seq = &seq,
                           .n_head = p.H,
                           .n_kv_head = p.G,
                           .k_dim = p.K,
                           .v_dim = p.V,
                           .chunk = 16,
                           .scale = 0.25f,
                           .q = in_view(&one, x, Q),
                           .k = in_view(&one, x, KEY),
                           .v = in_view(&one, x, VAL),
                           .gate = {in_view(&one, x, DECAY), in_view(&one, x, BETA)},
                           .o = gr_view3(b.y + (int64_t)t * p.H * p.V, GR_F32, 1, p.H, p.V),
                           .scratch = arena};

        a.state_in[0] = a.state_out[0] = gr_view3(S, GR_F32, p.H, p.K, p.V);
        copy_tokens(&one, x, &p, b.x, t, false);
        gr_gdn_cpu.forward(&a, NULL);
        gr_free(&x);
    }
    memcpy(b.y + out_at(&p, STATE_OUT), S, (size_t)state * 4);
    compare(&p, "token by token", TOL, b.y, b.y64, NULL, NULL);
    gr_free(&S);
    close_problem(&b);
}

/* Bits that must not change: other documents when one is perturbed; everything when threads change. */
static void test_bitwise(void)
{
    const problem p = {.N = 120,
                       .H = 4,
                       .G = 2,
                       .K = 16,
                       .V = 20,
                       .C = 16,
                       .n_doc = 4,
                       .doc = {0, 33, 50, 101, 120},
                       .carry = true,
                       .g_min = -0.3,
                       .b_max = 1};
    const int64_t n = in_at(&p, N_IN), m = out_at(&p, N_OUT);
    const size_t  state = (size_t)in_size(&p, STATE) * sizeof(float);
    buffers       b = open_problem(&p);
    int           changed[4] = {0};

    omp_set_num_threads(1);
    run(&p, b.x, b.y, b.w, b.dx);
    omp_set_num_threads(2);
    run(&p, b.x, b.y2, b.w, b.dx2);
    CHECK(!memcmp(b.y, b.y2, (size_t)m * 4), "outputs depend on the number of threads");
    CHECK(!memcmp(b.dx, b.dx2, (size_t)n * 4), "gradients depend on the number of threads");

    for (int i = 0; i < STATE; i++) /* perturb token 60, document 2 */
        for (int64_t r = in_size(&p, i) / p.N, j = 60 * r; j < 61 * r; j++) b.x[in_at(&p, i) + j] *= 0.5f;
    for (int64_t r = p.H * p.V, j = 60 * r; j < 61 * r; j++) b.w[j] *= 0.5f;
    run(&p, b.x, b.y2, b.w, b.dx2);
    for (int d = 0; d < p.n_doc; d++)
        for (int t = p.doc[d]; t < p.doc[d + 1]; t++) {
            changed[d] |= memcmp(b.y + t * p.H * p.V, b.y2 + t * p.H * p.V, (size_t)(p.H * p.V) * 4);
            for (int i = 0; i < STATE; i++) {
                const int64_t r = in_size(&p, i) / p.N, at = in_at(&p, i) + t * r;
                changed[d] |= memcmp(b.dx + at, b.dx2 + at, (size_t)r * 4);
            }
        }
    CHECK(!changed[0] && !changed[1] && !changed[3], "perturbing one document changed another");
    CHECK(changed[2], "perturbing a document changed nothing");
    CHECK(!memcmp(b.y + out_at(&p, STATE_OUT), b.y2 + out_at(&p, STATE_OUT), state), "state_out changed");
    CHECK(!memcmp(b.dx + in_at(&p, STATE), b.dx2 + in_at(&p, STATE), state), "dstate_in changed");
    close_problem(&b);
}

int main(void)
{
    static const int cut[] = {1, 15, 30, 32, 47, 89, 90, 99};

    if (gr_arena_open(&arena, &gr_ops_cpu, "test") != GR_OK) return 1;
    omp_set_num_threads(2);
    test_oracle_gradient();
    test_against_oracle();
    test_hard_inputs();
    test_long();
    for (int i = 0; i < (int)(sizeof cut / sizeof *cut); i++) test_split(cut[i]);
    test_tokens();
    test_bitwise();
    gr_arena_close(&arena);
    return check_result();
}
