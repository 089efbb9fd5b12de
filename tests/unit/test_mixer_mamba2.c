/* The core of Mamba-2 on cpu, that is linear attention with scalar decay (kernels/cpu/gla.h), against the recurrence
 * token by token in fp64; and the same in the forms that others use: without write strength, scaled, several rows per
 * token. */
/*TEST
np: 1
timeout: 60
*/
#include "kernels/cpu/gla.h"
#include "tests/unit/recurrence.h"

extern const gr_mixer_core gr_mamba2_cpu;

enum { DECAY = REC_GATE, WRITE };

#define TOL (gr_mamba2_cpu.tol)

/* S [N + 1, K, V]: the states of one head; state after token t at S[t + 1], the one it starts from is computed anew.
 * Row r of token t is token t's r-th block in [N, R, heads, width]. */
static void oracle(const rec_problem *p, int h, const double *x, double *y, const double *w, double *dx)
{
    const int     K = p->K, V = p->V, G = p->G, kv = h / (p->H / G), R = p->R > 1 ? p->R : 1;
    const int64_t KV = (int64_t)K * V;
    const double  scale = p->type->scaled ? 1 / sqrt(K) : 1;
    const bool    strength = rec_first_state(p) > WRITE;
    double       *S = take((p->N + 1) * KV, 8), *dS = take(KV, 8);

#define ROW(base, part, heads, head, width, t, r)                                                                      \
    ((base) + rec_at(p, part) + (((int64_t)(t)*R + (r)) * (heads) + (head)) * (width))
#define OUT(base, t, r) ((base) + (((int64_t)(t)*R + (r)) * p->H + h) * V)
    for (int d = 0; d < p->n_doc; d++) {
        rec_start(S + p->doc[d] * KV, REC_STATE_IN(p, x, d, 0, h), KV); /* the previous document is done with it */
        for (int t = p->doc[d]; t < p->doc[d + 1]; t++) {
            const double  a = exp(x[rec_of(p, DECAY, t, h)]), b = strength ? x[rec_of(p, WRITE, t, h)] : 1;
            const double *S0 = S + t * KV;
            double       *S1 = S + (t + 1) * KV;

            for (int64_t i = 0; i < KV; i++) S1[i] = a * S0[i];
            for (int r = 0; r < R; r++) {
                const double *k = ROW(x, REC_K, G, kv, K, t, r), *v = ROW(x, REC_V, G, kv, V, t, r);
                for (int64_t i = 0; i < KV; i++) S1[i] += b * k[i / V] * v[i % V];
            }
            for (int r = 0; r < R; r++) {
                const double *q = ROW(x, REC_Q, p->H, h, K, t, r);
                double       *o = OUT(y, t, r);

                rec_start(o, NULL, V);
                for (int64_t i = 0; i < KV; i++) o[i % V] += scale * q[i / V] * S1[i];
            }
        }
        if (REC_STATE_OUT(p, y, d, 0, h)) rec_start(REC_STATE_OUT(p, y, d, 0, h), S + p->N * KV, KV);

        /* Backward while this document's states are there; dS is the gradient of the state after token t. */
        if (!dx) continue;
        rec_start(dS, REC_STATE_OUT(p, w, d, 0, h), KV);
        for (int t = p->doc[d + 1] - 1; t >= p->doc[d]; t--) {
            const double  a = exp(x[rec_of(p, DECAY, t, h)]), b = strength ? x[rec_of(p, WRITE, t, h)] : 1;
            const double *S0 = S + t * KV, *S1 = S + (t + 1) * KV;

            for (int r = 0; r < R; r++) {
                const double *q = ROW(x, REC_Q, p->H, h, K, t, r), *d_o = OUT(w, t, r);
                double       *dq = ROW(dx, REC_Q, p->H, h, K, t, r);

                for (int64_t i = 0; i < KV; i++) {
                    dq[i / V] += scale * S1[i] * d_o[i % V];
                    dS[i] += scale * q[i / V] * d_o[i % V];
                }
            }
            for (int r = 0; r < R; r++) {
                const double *k = ROW(x, REC_K, G, kv, K, t, r), *v = ROW(x, REC_V, G, kv, V, t, r);
                double       *dk = ROW(dx, REC_K, G, kv, K, t, r), *dv = ROW(dx, REC_V, G, kv, V, t, r);

                for (int64_t i = 0; i < KV; i++) {
                    dk[i / V] += b * dS[i] * v[i % V];
                    dv[i % V] += b * dS[i] * k[i / V];
                    if (strength) dx[rec_of(p, WRITE, t, h)] += dS[i] * k[i / V] * v[i % V];
                }
            }
            for (int64_t i = 0; i < KV; i++) {
                dx[rec_of(p, DECAY, t, h)] += a * S0[i] * dS[i];
                dS[i] *= a;
            }
        }
        if (REC_STATE_IN(p, dx, d, 0, h)) rec_start(REC_STATE_IN(p, dx, d, 0, h), dS, KV);
    }
#undef ROW
#undef OUT
}

static const rec_type mamba2 = {
    .core = &gr_mamba2_cpu,
    .part = {{"q", "NHK"}, {"k", "NGK"}, {"v", "NGV"}, {"g", "NH"}, {"delta", "NH"}, {"state", "HKV"}},
    .oracle = oracle,
};

/* ---- the other forms of linear attention ------------------------------------------------------------------------- */

static void gla_forward(const gr_core_args *a, gr_stream *s)
{
    (void)s;
    gr_chunked_forward(a, &gr_gla);
}

static void gla_backward(const gr_core_args *a, gr_stream *s)
{
    (void)s;
    gr_chunked_backward(a, &gr_gla);
}

static const gr_mixer_core gla_core = {.tol = 1e-5, .forward = gla_forward, .backward = gla_backward};

static const rec_type read_out = {
    /* Gated KalmaNet's */
    .core = &gla_core,
    .part = {{"q", "NHK"}, {"k", "NGK"}, {"v", "NGV"}, {"g", "NH"}, {"state", "HKV"}},
    .scaled = true,
    .oracle = oracle,
};

static const rec_type rows = {
    /* Mamba-3's */
    .core = &gla_core,
    .part = {{"q", "NRHK"}, {"k", "NRGK"}, {"v", "NRGV"}, {"g", "NH"}, {"w", "NH"}, {"state", "HKV"}},
    .oracle = oracle,
};

/* ---- hard inputs ------------------------------------------------------------------------------------------------- */

/* What breaks careless chunk algorithms. */
static void test_hard_inputs(void)
{
    static const rec_problem p = {&mamba2, 64, 1, 1, 16, 16, 64, 1, {0, 64}, true, -0.01, 1, 0, 0};

    for (int which = 0; which < 3; which++) {
        static const char *const what[] = {"no decay at all", "one decay of -3000", "nothing written"};
        rec_buffers              b = rec_open(&p);

        for (int t = 0; t < p.N; t++) {
            if (which == 0) b.x[rec_of(&p, DECAY, t, 0)] = 0;
            if (which == 2) b.x[rec_of(&p, WRITE, t, 0)] = 0;
        }
        if (which == 1) b.x[rec_of(&p, DECAY, 20, 0)] = -3000;
        rec_run_oracle(&p, &b);
        rec_run(&p, b.x, b.y, b.w, b.dx);
        rec_compare(&p, what[which], TOL, &b, true);
        take_back();
    }
}

int main(void)
{
    static const int         cut[] = {1, 15, 30, 32, 47, 89, 90, 99};
    static const rec_problem base[] = {
        {&mamba2, 61, 2, 2, 16, 20, 0, 1, {0, 61}, false, -0.3, 1, 0, 0},
        {&mamba2, 61, 4, 2, 16, 20, 0, 4, {0, 13, 14, 37, 61}, false, -0.3, 1, 0, 0},
        {&mamba2, 150, 3, 1, 24, 16, 0, 1, {0, 150}, false, -0.3, 1, 0, 0},
        {&mamba2, 150, 2, 1, 20, 36, 0, 2, {0, 150, 150}, false, -0.1, 2, 0, 0},
        {&mamba2, 130, 1, 1, 64, 64, 0, 3, {0, 1, 66, 130}, false, -0.05, 2, 0, 0},
        {&mamba2, 61, 1, 1, 16, 16, 0, 1, {0, 61}, false, -100, 1, 0, 0}, /* sum g = -3000 */
        {&mamba2, 1, 6, 2, 16, 20, 0, 1, {0, 1}, false, -0.3, 1, 0, 0},
        {&read_out, 61, 4, 2, 16, 20, 0, 4, {0, 13, 14, 37, 61}, false, -0.3, 1, 0, 0},
        {&read_out, 150, 3, 1, 24, 16, 0, 1, {0, 150}, false, -5, 1, 0, 0},
        {&rows, 61, 4, 2, 16, 20, 0, 4, {0, 13, 14, 37, 61}, false, -0.3, 1, 2, 0},
        {&rows, 70, 2, 1, 20, 36, 0, 1, {0, 70}, false, -0.1, 2, 4, 0},
        {&rows, 61, 1, 1, 16, 16, 0, 1, {0, 61}, false, -100, 1, 3, 0},
        {&rows, 1, 6, 2, 16, 20, 0, 1, {0, 1}, false, -0.3, 1, 4, 0},
    };
    static const rec_problem small[] = {{&mamba2, 23, 2, 1, 5, 7, 16, 2, {0, 9, 23}, true, -0.5, 1, 0, 0},
                                        {&read_out, 23, 2, 1, 5, 7, 16, 2, {0, 9, 23}, true, -0.5, 1, 0, 0},
                                        {&rows, 23, 2, 1, 5, 7, 16, 2, {0, 9, 23}, true, -0.5, 1, 3, 0}};
    static const rec_problem lengthy = {&mamba2, 4096, 1, 1, 16, 16, 64, 1, {0, 4096}, true, -0.002, 1, 0, 0};
    static const rec_problem split[] = {{&mamba2, 100, 2, 1, 16, 20, 32, 3, {0, 30, 90, 100}, true, -0.2, 2, 0, 0},
                                        {&rows, 100, 2, 1, 16, 20, 8, 3, {0, 30, 90, 100}, true, -0.2, 2, 4, 0}};
    static const rec_problem tokens[] = {{&mamba2, 50, 4, 2, 16, 20, 16, 1, {0, 50}, true, -0.3, 1, 0, 0},
                                         {&rows, 50, 4, 2, 16, 20, 16, 1, {0, 50}, true, -0.3, 1, 3, 0}};
    static const rec_problem packed = {&mamba2, 120, 4, 2, 16, 20, 16, 4, {0, 33, 50, 101, 120}, true, -0.3, 1, 0, 0};

    if (gr_arena_open(&rec_arena, &gr_ops_cpu, "test") != GR_OK) return 1;
    omp_set_num_threads(2);
    for (int i = 0; i < 3; i++) rec_test_oracle(&small[i]);
    rec_test_all(base, (int)(sizeof base / sizeof *base), TOL);
    test_hard_inputs();
    rec_test(&lengthy, "4096 tokens", TOL);
    for (int i = 0; i < 2 * (int)(sizeof cut / sizeof *cut); i++) rec_test_split(&split[i % 2], cut[i / 2], TOL);
    for (int i = 0; i < 2; i++) rec_test_tokens(&tokens[i], TOL);
    rec_test_bits(&packed, 60);
    gr_arena_close(&rec_arena);
    return check_result();
}
