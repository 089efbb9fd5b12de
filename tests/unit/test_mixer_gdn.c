/* The core of Gated DeltaNet on cpu, against the recurrence token by token in fp64. */
/*TEST
np: 1
timeout: 60
*/
#include "tests/unit/recurrence.h"

extern const gr_mixer_core gr_gdn_cpu;

enum { DECAY = REC_GATE, BETA, STATE };

#define TOL (gr_gdn_cpu.tol)

/* S [N + 1, K, V]: the states of one head; state after token t at S[t + 1], the one it starts from is computed anew. */
static void oracle(const rec_problem *p, int h, const double *x, double *y, const double *w, double *dx)
{
    const int     K = p->K, V = p->V, kv = h / (p->H / p->G);
    const int64_t KV = (int64_t)K * V;
    const double  scale = 1 / sqrt(K);
    double       *S = take((p->N + 1) * KV, 8), *u = take(p->N * V, 8), *e = take(p->N * V, 8);
    double       *dS = take(KV, 8), *du = take(V, 8);

    for (int d = 0; d < p->n_doc; d++) {
        rec_start(S + p->doc[d] * KV, REC_STATE_IN(p, x, d, 0, h), KV); /* the previous document is done with it */
        for (int t = p->doc[d]; t < p->doc[d + 1]; t++) {
            const double *q = x + rec_of(p, REC_Q, t, h), *k = x + rec_of(p, REC_K, t, kv),
                         *v = x + rec_of(p, REC_V, t, kv);
            const double  a = exp(x[rec_of(p, DECAY, t, h)]), b = x[rec_of(p, BETA, t, h)];
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
        if (REC_STATE_OUT(p, y, d, 0, h)) rec_start(REC_STATE_OUT(p, y, d, 0, h), S + p->N * KV, KV);

        /* Backward while this document's states are there; dS is the gradient of the state after token t. */
        if (!dx) continue;
        rec_start(dS, REC_STATE_OUT(p, w, d, 0, h), KV);
        for (int t = p->doc[d + 1] - 1; t >= p->doc[d]; t--) {
            const double *q = x + rec_of(p, REC_Q, t, h), *k = x + rec_of(p, REC_K, t, kv),
                         *d_o = w + ((int64_t)t * p->H + h) * V;
            const double  a = exp(x[rec_of(p, DECAY, t, h)]), b = x[rec_of(p, BETA, t, h)];
            const double *S0 = S + t * KV, *S1 = S + (t + 1) * KV;
            double       *dq = dx + rec_of(p, REC_Q, t, h), *dk = dx + rec_of(p, REC_K, t, kv),
                   *dv = dx + rec_of(p, REC_V, t, kv);
            double *dg = dx + rec_of(p, DECAY, t, h), *db = dx + rec_of(p, BETA, t, h);

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
        if (REC_STATE_IN(p, dx, d, 0, h)) rec_start(REC_STATE_IN(p, dx, d, 0, h), dS, KV);
    }
}

static const rec_type gdn = {
    .core = &gr_gdn_cpu,
    .part = {{"q", "NHK"}, {"k", "NGK"}, {"v", "NGV"}, {"g", "NH"}, {"beta", "NH"}, {"state", "HKV"}},
    .scaled = true,
    .oracle = oracle,
};

/* What breaks careless chunk algorithms. With beta = 2 on one and the same key the state flips sign at each token, and
 * all that was ever written stays: errors add up (measured 1.6e-5), hence the tolerance. */
static void test_hard_inputs(void)
{
    const rec_problem p = {.type = &gdn,
                           .N = 64,
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
        rec_buffers              b = rec_open(&p);

        for (int t = 0; t < p.N; t++) {
            if (which < 2) memcpy(b.x + rec_of(&p, REC_K, t, 0), b.x + rec_at(&p, REC_K), (size_t)p.K * sizeof(float));
            if (which != 2) b.x[rec_at(&p, BETA) + t] = which == 0 ? 1 : which == 1 ? 2 : 0;
        }
        if (which == 2) b.x[rec_at(&p, DECAY) + 20] = -3000;
        rec_run_oracle(&p, &b);
        rec_run(&p, b.x, b.y, b.w, b.dx);
        rec_compare(&p, what[which], which == 1 ? 1e-4 : TOL, &b, true);
        take_back();
    }
}

int main(void)
{
    static const int         cut[] = {1, 15, 30, 32, 47, 89, 90, 99};
    static const rec_problem base[] = {
        {&gdn, 61, 2, 2, 16, 20, 0, 1, {0, 61}, false, -0.3, 1, 0, 0},
        {&gdn, 61, 4, 2, 16, 20, 0, 4, {0, 13, 14, 37, 61}, false, -0.3, 1, 0, 0},
        {&gdn, 150, 3, 1, 24, 16, 0, 1, {0, 150}, false, -0.3, 1, 0, 0},
        {&gdn, 150, 2, 1, 20, 36, 0, 2, {0, 150, 150}, false, -0.1, 2, 0, 0},
        {&gdn, 130, 1, 1, 64, 64, 0, 3, {0, 1, 66, 130}, false, -0.05, 2, 0, 0},
        {&gdn, 61, 1, 1, 16, 16, 0, 1, {0, 61}, false, -100, 1, 0, 0}, /* sum g = -3000 */
        {&gdn, 1, 6, 2, 16, 20, 0, 1, {0, 1}, false, -0.3, 1, 0, 0},
    };
    static const rec_problem small = {&gdn, 23, 2, 1, 5, 7, 16, 2, {0, 9, 23}, true, -0.5, 1, 0, 0};
    static const rec_problem lengthy = {&gdn, 4096, 1, 1, 16, 16, 64, 1, {0, 4096}, true, -0.002, 1, 0, 0};
    static const rec_problem split = {&gdn, 100, 2, 1, 16, 20, 32, 3, {0, 30, 90, 100}, true, -0.2, 2, 0, 0};
    static const rec_problem tokens = {&gdn, 50, 4, 2, 16, 20, 16, 1, {0, 50}, true, -0.3, 1, 0, 0};
    static const rec_problem packed = {&gdn, 120, 4, 2, 16, 20, 16, 4, {0, 33, 50, 101, 120}, true, -0.3, 1, 0, 0};

    if (gr_arena_open(&rec_arena, &gr_ops_cpu, "test") != GR_OK) return 1;
    omp_set_num_threads(2);
    rec_test_oracle(&small);
    rec_test_all(base, (int)(sizeof base / sizeof *base), TOL);
    test_hard_inputs();
    rec_test(&lengthy, "4096 tokens", TOL);
    for (int i = 0; i < (int)(sizeof cut / sizeof *cut); i++) rec_test_split(&split, cut[i], TOL);
    rec_test_tokens(&tokens, TOL);
    rec_test_bits(&packed, 60);
    gr_arena_close(&rec_arena);
    return check_result();
}
