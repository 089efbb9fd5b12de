/* gemm in every shape class, add, scale, sumsq and AdamW, against fp64. */
/*TEST
np: 1
timeout: 60
*/
#include "tests/unit/oracle.h"

static const gr_ops *op = &gr_ops_cpu;

typedef struct gemm_case {
    int64_t M, N, K;
    bool    ta, tb;
    float   alpha, beta;
    float  *a, *b, *c, *c0;
} gemm_case;

static void run_gemm(const void *ctx)
{
    const gemm_case *g = ctx;

    if (g->beta != 0) memcpy(g->c, g->c0, (size_t)(g->M * g->N) * sizeof(float));
    op->gemm(mat(g->c, g->M, g->N), g->ta ? mat(g->a, g->K, g->M) : mat(g->a, g->M, g->K), g->ta,
             g->tb ? mat(g->b, g->N, g->K) : mat(g->b, g->K, g->N), g->tb, g->alpha, g->beta, NULL);
}

static void gemm(int64_t M, int64_t N, int64_t K)
{
    for (int form = 0; form < 12; form++) {
        gemm_case g = {.M = M, .N = N, .K = K, .ta = form & 1, .tb = form & 2};
        double   *want = take(M * N, sizeof *want);
        char      what[100];

        g.alpha = form / 4 == 0 ? 1.0f : -0.5f;
        g.beta = form / 4 == 0 ? 0.0f : form / 4 == 1 ? 1.0f : 0.25f;
        g.a = uniform(M * K, 1, -1, 1), g.b = uniform(K * N, 2, -1, 1), g.c0 = uniform(M * N, 3, -1, 1),
        g.c = poisoned(M * N);
        for (int64_t i = 0; i < M; i++)
            for (int64_t j = 0; j < N; j++) {
                double s = 0;

                for (int64_t k = 0; k < K; k++)
                    s += (double)g.a[g.ta ? k * M + i : i * K + k] * g.b[g.tb ? j * K + k : k * N + j];
                want[i * N + j] = g.alpha * s + (g.beta != 0 ? g.beta * (double)g.c0[i * N + j] : 0);
            }
        snprintf(what, sizeof what, "gemm %lldx%lldx%lld %c%c alpha %g beta %g", (long long)M, (long long)N,
                 (long long)K, g.ta ? 'T' : 'N', g.tb ? 'T' : 'N', g.alpha, g.beta);
        run_gemm(&g);
        CHECK_REL(g.c, want, M * N, 3e-6, what); /* K <= 700 products: rounding 6e-8 sqrt(K), with room */

        { /* repeatable with the same threads; other threads may cut K differently inside OpenBLAS */
            float *first = take(M * N, sizeof *first);

            memcpy(first, g.c, (size_t)(M * N) * sizeof *first);
            poison(g.c, M * N);
            run_gemm(&g);
            CHECK(memcmp(first, g.c, (size_t)(M * N) * sizeof *first) == 0, "%s: not repeatable", what);
            if (M <= 8 && g.tb && !g.ta) check_bits(what, run_gemm, &g, g.c, M * N);
        }
        take_back();
    }
}

/* Tensors of rank 3 count as [dim 0, rest]; K = 0 leaves beta c; nothing happens to an empty c. */
static void odd_gemms(void)
{
    float a[12], b[12], c[6], d[6];

    for (int i = 0; i < 12; i++) a[i] = b[i] = (float)i;
    op->gemm(gr_view2(c, GR_F32, 2, 2), gr_view3(a, GR_F32, 2, 3, 2), false, gr_view3(b, GR_F32, 2, 2, 3), true, 1, 0,
             NULL);
    op->gemm(gr_view2(d, GR_F32, 2, 2), mat(a, 2, 6), false, mat(b, 2, 6), true, 1, 0, NULL);
    CHECK(memcmp(c, d, 4 * sizeof *c) == 0 && d[3] == 451, "rank 3");
    for (int form = 0; form < 4; form++) {
        const bool ta = form & 1, tb = form & 2;

        for (int i = 0; i < 6; i++) c[i] = 1, d[i] = NAN;
        op->gemm(mat(c, 2, 3), ta ? mat(a, 0, 2) : mat(a, 2, 0), ta, tb ? mat(b, 3, 0) : mat(b, 0, 3), tb, 1, 0.5f,
                 NULL);
        op->gemm(mat(d, 2, 3), ta ? mat(a, 0, 2) : mat(a, 2, 0), ta, tb ? mat(b, 3, 0) : mat(b, 0, 3), tb, 1, 0, NULL);
        CHECK(c[0] == 0.5f && c[5] == 0.5f && d[0] == 0 && d[5] == 0, "K = 0, form %d", form);
        op->gemm(mat(c, 0, 3), ta ? mat(a, 2, 0) : mat(a, 0, 2), ta, tb ? mat(b, 3, 2) : mat(b, 2, 3), tb, 1, 0, NULL);
    }
}

static void sums(int64_t n)
{
    float *x = uniform(n, 1, -1, 1), *y = uniform(n, 2, -1, 1), *z = take(n, sizeof *z);
    double sum = 3, want = 3, again = 3, one = 3;

    memcpy(z, y, (size_t)n * sizeof *z);
    op->add(vec1(z, n), vec1(x, n), NULL);
    for (int64_t i = 0; i < n; i++) CHECK(z[i] == y[i] + x[i], "add, element %lld", (long long)i);
    op->scale(vec1(z, n), -0.3f, NULL);
    for (int64_t i = 0; i < n; i++) CHECK(z[i] == (y[i] + x[i]) * -0.3f, "scale, element %lld", (long long)i);

    for (int64_t i = 0; i < n; i++) want += (double)x[i] * x[i];
    op->sumsq(gr_view1(&sum, GR_F64, 1), vec1(x, n), NULL);
    CHECK(fabs(sum - want) <= 1e-13 * want, "sumsq: %.17g, not %.17g", sum, want); /* fp64 throughout */
    op->sumsq(gr_view1(&again, GR_F64, 1), vec1(x, n), NULL);
    omp_set_num_threads(1);
    op->sumsq(gr_view1(&one, GR_F64, 1), vec1(x, n), NULL);
    omp_set_num_threads(2);
    CHECK(sum == again && sum == one, "sumsq: other bits");
    if (n > 1) x[n / 2] = NAN;
    op->sumsq(gr_view1(&sum, GR_F64, 1), vec1(x, n), NULL);
    CHECK(n <= 1 || isnan(sum), "sumsq loses a NaN");
    take_back();
}

/* Five steps of docs/math.md 9.4 in fp64. */
static void adamw(int64_t n)
{
    float  *p = uniform(n, 1, -1, 1), *m = take(n, sizeof *m), *v = take(n, sizeof *v);
    double *p64 = widen(p, n), *m64 = take(n, sizeof *m64), *v64 = take(n, sizeof *v64);

    for (int t = 1; t <= 5; t++) {
        const double   lr = 1e-2f, b1 = 0.9f, b2 = 0.95f, eps = 1e-8f, wd = 0.1f, gs = 0.7f;
        const gr_adamw h = {(float)lr,
                            (float)b1,
                            (float)b2,
                            (float)eps,
                            (float)wd,
                            (float)gs,
                            (float)(1 - pow(b1, t)),
                            (float)(1 - pow(b2, t))};
        float         *g = uniform(n, (uint64_t)(10 + t), -1, 1);

        op->adamw(vec1(p, n), vec1(m, n), vec1(v, n), vec1(g, n), &h, NULL);
        for (int64_t i = 0; i < n; i++) {
            const double x = g[i] * gs;

            m64[i] = b1 * m64[i] + (1 - b1) * x;
            v64[i] = b2 * v64[i] + (1 - b2) * x * x;
            p64[i] =
                p64[i] * (1 - lr * wd) - lr / (1 - pow(b1, t)) * m64[i] / (sqrt(v64[i]) / sqrt(1 - pow(b2, t)) + eps);
        }
    }
    CHECK_REL(p, p64, n, 1e-6, "adamw p"); /* a few roundings per step, of numbers up to 1 */
    CHECK_REL(m, m64, n, 1e-6, "adamw m");
    CHECK_REL(v, v64, n, 1e-6, "adamw v");
    take_back();
}

/* A gradient of zero only decays; a NaN is not hidden. */
static void adamw_edges(void)
{
    float          p[3] = {1, 1, 1}, m[3] = {0}, v[3] = {0}, g[3] = {0, NAN, 1};
    const gr_adamw h = {0.5f, 0.9f, 0.99f, 1e-8f, 0.2f, 1, 0.1f, 0.01f};

    op->adamw(vec1(p, 3), vec1(m, 3), vec1(v, 3), vec1(g, 3), &h, NULL);
    CHECK(p[0] == 0.9f && isnan(p[1]) && fabsf(p[2] - 0.4f) < 1e-5f, "adamw: %g %g %g", p[0], p[1], p[2]);
}

int main(void)
{
    static const int64_t shape[][3] = {{1, 1, 1},  {1, 33, 700}, {2, 331, 128}, {3, 5, 7},      {8, 130, 64},
                                       {9, 64, 9}, {67, 16, 33}, {67, 331, 67}, {130, 257, 300}};
    static const int64_t size[] = {0, 1, 3, 67, 20000, 100003};

    omp_set_num_threads(2);
    for (int i = 0; i < 9; i++) gemm(shape[i][0], shape[i][1], shape[i][2]);
    odd_gemms();
    for (int i = 0; i < 6; i++) {
        sums(size[i]);
        adamw(size[i]);
    }
    adamw_edges();
    return check_result();
}
