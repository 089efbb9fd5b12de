/* The core of Gated KalmaNet on cpu, against its recurrence token by token in fp64.
 *
 * The oracle solves each token's system (H + ridge |H| I) x = q twice over: by Cholesky, which is the definition, and
 * by as many Chebyshev iterations as the core makes. Its gradient is the implicit formula with the same solver; with
 * Cholesky that is the gradient, and central differences confirm it. The core is held to the oracle with its own number
 * of iterations, where only rounding differs, and to the exact solution, where the iteration must be what limits. */
/*TEST
np: 1
timeout: 60
*/
#include "tests/unit/recurrence.h"

extern const gr_mixer_core gr_gka_cpu;

#define TOL (gr_gka_cpu.tol)

/* Where a token's state is one key, H is of rank 1 and its condition number 51 shows in full: of x, 50 times as long
 * across the key as along it, only the part along the key is read. That part then has 50 times the rounding of x, and
 * still less than the error of 30 iterations, 3.2e-4, which this is. */
static const double LONE = 3.2e-4;

enum { Q = REC_Q, KEY = REC_K, VAL = REC_V, DECAY = REC_GATE, BETA, ALPHA, S_STATE, H_STATE };

static const double RIDGE = 0.02, EPS = 1e-6, F_MIN = 1e-15; /* the paper's; of beta; below, x = 0 */

static int  iterations = 30;
static bool no_alpha; /* the core gets none */
static bool exact;    /* the oracle solves by Cholesky */

/* ---- one system, fp64 -------------------------------------------------------------------------------------------- */

static double frobenius(int K, const double *H)
{
    return sqrt(sum_product(H, H, (int64_t)K * K));
}

/* x = A^-1 b by Cholesky, A = H + ridge F I; L [K, K] is scratch. */
static void solve_exact(int K, const double *H, double F, const double *b, double *x, double *L)
{
    for (int i = 0; i < K; i++)
        for (int j = 0; j <= i; j++) {
            double s = H[i * K + j] + (i == j ? RIDGE * F : 0);
            for (int m = 0; m < j; m++) s -= L[i * K + m] * L[j * K + m];
            L[i * K + j] = i == j ? sqrt(s) : s / L[j * K + j];
        }
    for (int i = 0; i < K; i++) {
        x[i] = b[i];
        for (int j = 0; j < i; j++) x[i] -= L[i * K + j] * x[j];
        x[i] /= L[i * K + i];
    }
    for (int i = K - 1; i >= 0; i--) {
        for (int j = i + 1; j < K; j++) x[i] -= L[j * K + i] * x[j];
        x[i] /= L[i * K + i];
    }
}

/* As published: bounds mu = ridge F and mu + F; w [2 K] is scratch. */
static void solve_chebyshev(int K, const double *H, double F, const double *b, double *x, double *w)
{
    const double lambda = RIDGE * F, eta = 2 / (2 * lambda + F), r = F / (2 * lambda + F);
    double       omega = 2, *before = w, *next = w + K;

    for (int i = 0; i < K; i++) before[i] = 0, x[i] = eta * b[i];
    for (int n = 0; n < iterations; n++) {
        omega = 1 / (1 - r * r / 4 * omega);
        for (int i = 0; i < K; i++) {
            const double Hx = sum_product(H + i * K, x, K);
            next[i] = omega * (x[i] - eta * (Hx + lambda * x[i] - b[i])) + (1 - omega) * before[i];
        }
        memcpy(before, x, (size_t)K * sizeof *x);
        memcpy(x, next, (size_t)K * sizeof *x);
    }
}

static void solve(int K, const double *H, const double *b, double *x)
{
    double       room[64 * 64];
    const double F = frobenius(K, H);

    if (F < F_MIN)
        memset(x, 0, (size_t)K * sizeof *x);
    else if (exact)
        solve_exact(K, H, F, b, x, room);
    else
        solve_chebyshev(K, H, F, b, x, room);
}

/* ---- oracle ------------------------------------------------------------------------------------------------------ */

/* y [n] = x A, A [m, n]. */
static void row_times(int m, int n, const double *x, const double *A, double *y)
{
    for (int j = 0; j < n; j++) y[j] = 0;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) y[j] += x[i] * A[i * n + j];
}

/* A += x^T y. */
static void add_outer(int m, int n, double a, const double *x, const double *y, double *A)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) A[i * n + j] += a * x[i] * y[j];
}

/* What the oracle remembers of a head: S [N + 1, K, V] and H [N + 1, K, K] before and after each token, x [N, K]. */
typedef struct history {
    double *S, *H, *x;
} history;

static void head_forward(const rec_problem *p, int h, int d, const double *in, double *y, const history *r)
{
    const int    K = p->K, V = p->V, kv = h / (p->H / p->G), KV = K * V, KK = K * K;
    const double scale = 1 / sqrt(K);

    for (int t = p->doc[d]; t < p->doc[d + 1]; t++) {
        const double *q = in + rec_of(p, Q, t, h), *k0 = in + rec_of(p, KEY, t, kv), *v0 = in + rec_of(p, VAL, t, kv);
        const double  e = exp(in[rec_of(p, DECAY, t, h)]), b = in[rec_of(p, BETA, t, h)] + EPS;
        const double  a = in[rec_of(p, ALPHA, t, h)];
        double       *S = r->S + (t + 1) * KV, *H = r->H + (t + 1) * KK, *x = r->x + t * K, qp[64];
        double       *o = y + ((int64_t)t * p->H + h) * V;

        for (int i = 0; i < KV; i++) S[i] = e * S[i - KV];
        for (int i = 0; i < KK; i++) H[i] = e * H[i - KK];
        add_outer(K, V, b * b, k0, v0, S);
        add_outer(K, K, b * b, k0, k0, H);
        solve(K, H, q, x);
        for (int i = 0; i < K; i++) qp[i] = scale * (q[i] + a * (x[i] - q[i]));
        row_times(K, V, qp, S, o);
    }
}

/* dS, dH: gradients of the states after token t, then before it. */
static void head_backward(const rec_problem *p, int h, int d, const double *in, const double *w, double *dx,
                          const history *r, double *dS, double *dH)
{
    const int    K = p->K, V = p->V, kv = h / (p->H / p->G), KV = K * V, KK = K * K;
    const double scale = 1 / sqrt(K);

    for (int t = p->doc[d + 1] - 1; t >= p->doc[d]; t--) {
        const double *q = in + rec_of(p, Q, t, h), *k0 = in + rec_of(p, KEY, t, kv), *v0 = in + rec_of(p, VAL, t, kv);
        const double *d_o = w + ((int64_t)t * p->H + h) * V, *S = r->S + (t + 1) * KV, *H = r->H + (t + 1) * KK;
        const double *x = r->x + t * K;
        const double  e = exp(in[rec_of(p, DECAY, t, h)]), b = in[rec_of(p, BETA, t, h)] + EPS;
        const double  a = in[rec_of(p, ALPHA, t, h)], F = frobenius(K, H);
        double       *dq = dx + rec_of(p, Q, t, h), *dk = dx + rec_of(p, KEY, t, kv), *dv = dx + rec_of(p, VAL, t, kv);
        double       *dbeta = dx + rec_of(p, BETA, t, h), dqp[64], dxt[64], y[64], qp[64], c;

        for (int i = 0; i < K; i++) {
            dqp[i] = scale * sum_product(S + i * V, d_o, V);
            qp[i] = scale * (q[i] + a * (x[i] - q[i]));
            dx[rec_of(p, ALPHA, t, h)] += dqp[i] * (x[i] - q[i]);
            dxt[i] = a * dqp[i];
        }
        add_outer(K, V, 1, qp, d_o, dS);
        solve(K, H, dxt, y);
        c = F < F_MIN ? 0 : RIDGE * sum_product(y, x, K) / F;
        add_outer(K, K, -0.5, y, x, dH);
        add_outer(K, K, -0.5, x, y, dH);
        for (int i = 0; i < KK; i++) dH[i] -= c * H[i];
        for (int i = 0; i < K; i++) dq[i] += (1 - a) * dqp[i] + y[i];
        for (int i = 0; i < K; i++) { /* S = .. + (b k)^T (b v),  H = .. + (b k)^T (b k) */
            const double from_S = sum_product(dS + i * V, v0, V), from_H = 2 * sum_product(dH + i * K, k0, K);

            dk[i] += b * b * (from_S + from_H);
            *dbeta += b * k0[i] * (2 * from_S + from_H);
            for (int j = 0; j < V; j++) dv[j] += b * b * k0[i] * dS[i * V + j];
        }
        dx[rec_of(p, DECAY, t, h)] += e * (sum_product(dS, S - KV, KV) + sum_product(dH, H - KK, KK));
        for (int i = 0; i < KV; i++) dS[i] *= e;
        for (int i = 0; i < KK; i++) dH[i] *= e;
    }
}

/* H is symmetric: of what comes in, only the symmetric part counts. */
static void symmetric(int K, double *H)
{
    for (int i = 0; i < K; i++)
        for (int j = 0; j < i; j++) H[i * K + j] = H[j * K + i] = (H[i * K + j] + H[j * K + i]) / 2;
}

static void keep(double *to, const double *from, int64_t n)
{
    if (to) memcpy(to, from, (size_t)n * sizeof *to);
}

static void oracle(const rec_problem *p, int h, const double *in, double *y, const double *w, double *dx)
{
    const int64_t KV = (int64_t)p->K * p->V, KK = (int64_t)p->K * p->K;
    const history r = {take((p->N + 1) * KV, 8), take((p->N + 1) * KK, 8), take((int64_t)p->N * p->K, 8)};
    double       *dS = take(KV, 8), *dH = take(KK, 8);

    for (int d = 0; d < p->n_doc; d++) { /* the states after the previous document are done with */
        rec_start(r.S + p->doc[d] * KV, REC_STATE_IN(p, in, d, 0, h), KV);
        rec_start(r.H + p->doc[d] * KK, REC_STATE_IN(p, in, d, 1, h), KK);
        symmetric(p->K, r.H + p->doc[d] * KK);
        head_forward(p, h, d, in, y, &r);
        keep(REC_STATE_OUT(p, y, d, 0, h), r.S + p->doc[d + 1] * KV, KV);
        keep(REC_STATE_OUT(p, y, d, 1, h), r.H + p->doc[d + 1] * KK, KK);
        if (!dx) continue;
        rec_start(dS, REC_STATE_OUT(p, w, d, 0, h), KV);
        rec_start(dH, REC_STATE_OUT(p, w, d, 1, h), KK);
        symmetric(p->K, dH);
        head_backward(p, h, d, in, w, dx, &r, dS, dH);
        keep(REC_STATE_IN(p, dx, d, 0, h), dS, KV);
        keep(REC_STATE_IN(p, dx, d, 1, h), dH, KK);
    }
}

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

/* H as keys leave it: R^T R / 4 with R [4, K], of low rank. */
static void draw(const rec_problem *p, float *x)
{
    for (int i = 0; i < rec_n_part(p); i++) rec_draw_part(p, x, i);
    for (int64_t i = rec_at(p, BETA); i < rec_at(p, ALPHA); i++) x[i] = 0.1f + 0.9f * x[i];
    for (int h = 0; h < p->H && p->carry; h++) {
        double R[64], H[64 * 64] = {0};

        for (int r = 0; r < 4; r++) {
            for (int i = 0; i < p->K; i++) R[i] = rec_normal();
            add_outer(p->K, p->K, 0.25, R, R, H);
        }
        for (int i = 0; i < p->K * p->K; i++) x[rec_at(p, H_STATE) + h * p->K * p->K + i] = (float)H[i];
    }
}

static void complete(const rec_problem *p, gr_core_args *a)
{
    static float token[6 * 64]; /* asked for thousands of times */

    if (no_alpha) a->gate[ALPHA - REC_GATE] = gr_none();
    a->iterations = iterations;
    a->ridge = (float)RIDGE;
    if (p->N > 1) a->aux = gr_view3(poisoned((int64_t)p->N * p->H * p->K), GR_F32, p->N, p->H, p->K);
    if (p->N == 1) a->aux = gr_view3(token, GR_F32, 1, p->H, p->K);
}

static const rec_type gka = {
    .core = &gr_gka_cpu,
    .part = {{"q", "NHK"},
             {"k", "NGK"},
             {"v", "NGV"},
             {"g", "NH"},
             {"beta", "NH"},
             {"alpha", "NH"},
             {"S", "HKV"},
             {"H", "HKK"}},
    .scaled = true,
    .draw = draw,
    .complete = complete,
    .oracle = oracle,
};

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void test_oracle_gradient(void)
{
    const rec_problem p = {.type = &gka,
                           .N = 23,
                           .H = 2,
                           .G = 1,
                           .K = 5,
                           .V = 7,
                           .n_doc = 2,
                           .doc = {0, 9, 23},
                           .carry = true,
                           .g_min = -0.5,
                           .b_max = 1};

    exact = true;
    rec_test_oracle(&p);
    exact = false;
}

static void test_against_oracle(void)
{
    static const rec_problem base[] = {
        {.type = &gka,
         .N = 61,
         .H = 2,
         .G = 2,
         .K = 16,
         .V = 20,
         .n_doc = 1,
         .doc = {0, 61},
         .g_min = -0.3,
         .b_max = 1},
        {.type = &gka,
         .N = 61,
         .H = 4,
         .G = 2,
         .K = 16,
         .V = 20,
         .n_doc = 4,
         .doc = {0, 13, 14, 37, 61},
         .g_min = -0.3,
         .b_max = 1},
        {.type = &gka,
         .N = 150,
         .H = 3,
         .G = 1,
         .K = 24,
         .V = 16,
         .n_doc = 2,
         .doc = {0, 150, 150},
         .g_min = -0.1,
         .b_max = 1},
        {.type = &gka,
         .N = 130,
         .H = 1,
         .G = 1,
         .K = 64,
         .V = 64,
         .n_doc = 3,
         .doc = {0, 1, 66, 130},
         .g_min = -0.05,
         .b_max = 1},
    };
    static const rec_problem lone[] = {
        {.type = &gka,
         .N = 61,
         .H = 1,
         .G = 1,
         .K = 16,
         .V = 16,
         .n_doc = 1,
         .doc = {0, 61},
         .g_min = -100,
         .b_max = 1}, /* sum g = -3000 */
        {.type = &gka, .N = 1, .H = 6, .G = 2, .K = 16, .V = 20, .n_doc = 1, .doc = {0, 1}, .g_min = -0.3, .b_max = 1},
    };

    rec_test_all(base, (int)(sizeof base / sizeof *base), TOL);
    rec_test_all(lone, (int)(sizeof lone / sizeof *lone), LONE);
}

/* Without alpha: the regression alone is read with. The oracle's alpha is 1. */
static void test_no_alpha(void)
{
    const rec_problem p = {.type = &gka,
                           .N = 61,
                           .H = 4,
                           .G = 2,
                           .K = 16,
                           .V = 20,
                           .C = 32,
                           .n_doc = 2,
                           .doc = {0, 40, 61},
                           .carry = true,
                           .g_min = -0.3,
                           .b_max = 1};
    rec_buffers       b = rec_open(&p);

    for (int64_t i = rec_at(&p, ALPHA); i < rec_at(&p, S_STATE); i++) b.x[i] = 1;
    no_alpha = true;
    rec_run_oracle(&p, &b);
    rec_run(&p, b.x, b.y, b.w, b.dx);
    rec_compare(&p, "without alpha", TOL, &b, true);
    no_alpha = false;
    take_back();
}

static void test_hard_inputs(void)
{
    static const char *const what[] = {"identical keys", "one decay of -3000", "beta 0", "zero keys first",
                                       "zero keys only"};
    const rec_problem        p = {.type = &gka,
                                  .N = 64,
                                  .H = 1,
                                  .G = 1,
                                  .K = 16,
                                  .V = 16,
                                  .C = 64,
                                  .n_doc = 1,
                                  .doc = {0, 64},
                                  .g_min = -0.01,
                                  .b_max = 1};

    for (int which = 0; which < 5; which++) {
        rec_buffers b = rec_open(&p);
        float      *k = b.x + rec_at(&p, KEY), *beta = b.x + rec_at(&p, BETA);

        for (int t = 0; t < p.N; t++) {
            if (which == 0) memcpy(k + (int64_t)t * p.K, k, (size_t)p.K * 4);
            if (which == 2) beta[t] = 0;
            if (which == 4 || (which == 3 && t < 5)) memset(k + (int64_t)t * p.K, 0, (size_t)p.K * 4);
        }
        if (which == 1) b.x[rec_at(&p, DECAY) + 20] = -3000;
        rec_run_oracle(&p, &b);
        rec_run(&p, b.x, b.y, b.w, b.dx);
        rec_compare(&p, what[which], LONE, &b, true);
        take_back();
    }
}

static double distance(const double *a, const double *b, int64_t n)
{
    double err = 0, top = 0;

    for (int64_t i = 0; i < n; i++) {
        err = fmax(err, fabs(a[i] - b[i]));
        top = fmax(top, fabs(b[i]));
    }
    return err / top;
}

/* What limits is the iteration: up to 30 of them the core is ten times nearer to the same iteration in fp64 than either
 * is to the exact solution, and by 60 rounding is all that is left. o and dq stay near the bound 1 / T_{n+1}(1 + 2
 * ridge) of docs/math.md 3.3, which is for x; dk sums the errors of all later tokens. SHOW=1 prints the table that
 * stands there. */
static void test_iterations(void)
{
    static const int  n[] = {10, 20, 30, 40, 60};
    const rec_problem p = {.type = &gka,
                           .N = 150,
                           .H = 2,
                           .G = 1,
                           .K = 32,
                           .V = 32,
                           .C = 64,
                           .n_doc = 3,
                           .doc = {0, 1, 70, 150},
                           .g_min = -0.05,
                           .b_max = 1};
    rec_buffers       b = rec_open(&p);
    double           *y = take(rec_n_out(&p), 8), *dx = take(rec_n_in(&p), 8); /* exact */

    rec_run_oracle(&p, &b);
    exact = true;
    rec_oracle(&p, b.x64, y, b.w64, dx);
    exact = false;
    for (int i = 0; i < (int)(sizeof n / sizeof *n); i++) {
        const double bound = 1 / cosh((n[i] + 1) * acosh(1 + 2 * RIDGE));

        iterations = n[i];
        rec_oracle(&p, b.x64, b.y64, b.w64, b.dx64);
        rec_run(&p, b.x, b.y, b.w, b.dx);
        for (int part = -1; part < S_STATE; part++) { /* -1: o */
            const char   *name = part < 0 ? "o" : gka.part[part].name;
            const int64_t at = part < 0 ? 0 : rec_at(&p, part);
            const int64_t size = part < 0 ? rec_out_size(&p, 0) : rec_size(&p, part);
            const float  *got = part < 0 ? b.y : b.dx + at;
            const double *same = part < 0 ? b.y64 : b.dx64 + at, *want = part < 0 ? y : dx + at;
            const double  whole = check_rel(got, want, size), rounding = check_rel(got, same, size);
            const double  iteration = distance(same, want, size);

            CHECK(rounding <= TOL, "%d iterations: %s: rounding %.1e", n[i], name, rounding);
            CHECK(n[i] > 30 || 10 * rounding < iteration, "%d iterations: %s: rounding %.1e of %.1e", n[i], name,
                  rounding, whole);
            CHECK(n[i] < 60 || 2 * iteration < rounding, "60 iterations: %s: iteration %.1e of %.1e", name, iteration,
                  whole);
            CHECK(part > Q || whole < bound + TOL, "%d iterations: %s: error %.1e, bound %.1e", n[i], name, whole,
                  bound);
            if (getenv("SHOW"))
                printf("%2d %-5s error %.1e, rounding %.1e, bound %.1e\n", n[i], name, whole, rounding, bound);
        }
    }
    iterations = 30;
    take_back();
}

static void test_long(void)
{
    const rec_problem p = {.type = &gka,
                           .N = 4096,
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

    rec_test(&p, "4096 tokens", TOL);
    rec_test_tokens(&p, TOL);
}

int main(void)
{
    static const int  cut[] = {1, 15, 30, 32, 47, 89, 90, 99};
    const rec_problem packed = {.type = &gka,
                                .N = 100,
                                .H = 2,
                                .G = 1,
                                .K = 16,
                                .V = 20,
                                .C = 32,
                                .n_doc = 3,
                                .doc = {0, 30, 90, 100},
                                .carry = true,
                                .g_min = -0.2,
                                .b_max = 1};
    const rec_problem bits = {.type = &gka,
                              .N = 120,
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
    const rec_problem tokens = {.type = &gka,
                                .N = 50,
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

    if (gr_arena_open(&rec_arena, &gr_ops_cpu, "test") != GR_OK) return 1;
    omp_set_num_threads(2);
    test_oracle_gradient();
    test_against_oracle();
    test_no_alpha();
    test_hard_inputs();
    test_iterations();
    test_long();
    for (int i = 0; i < (int)(sizeof cut / sizeof *cut); i++) rec_test_split(&packed, cut[i], TOL);
    rec_test_tokens(&tokens, TOL);
    rec_test_bits(&bits, 60);
    gr_arena_close(&rec_arena);
    return check_result();
}
