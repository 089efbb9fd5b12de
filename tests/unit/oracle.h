/** @file oracle.h  What the tests of operations share: numbers, poison, finite differences, equality of bits.
 *
 * An oracle is a plain fp64 loop in the test itself. Gradients are not trusted to any formula: they are central
 * differences of that oracle, exact to about 1e-9 here, so a tolerance measures the fp32 of the operation alone.
 */
#ifndef GR_TESTS_UNIT_ORACLE_H
#define GR_TESTS_UNIT_ORACLE_H
#include "kernels/backend.h"
#include "tests/check.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { ORACLE_POOL = 4096 };

static void *oracle_pool[ORACLE_POOL];
static int   oracle_used;

/** Zeroed memory that oracle_done() returns. */
static inline void *take(int64_t n, int64_t size)
{
    void *p = NULL;

    if (oracle_used == ORACLE_POOL || gr_alloc(&p, (uint64_t)n, (uint64_t)size, "test") != GR_OK) exit(1);
    return oracle_pool[oracle_used++] = p;
}

static inline void take_back(void)
{
    while (oracle_used) gr_free(&oracle_pool[--oracle_used]);
}

/** Uniform in [lo, hi); the same seed gives the same numbers. */
static inline float *uniform(int64_t n, uint64_t seed, double lo, double hi)
{
    float *x = take(n, sizeof *x);

    for (int64_t i = 0; i < n; i++) {
        uint64_t h = (seed << 32) + (uint64_t)i; /* splitmix64 */

        h = (h + UINT64_C(0x9E3779B97F4A7C15)) * UINT64_C(0xBF58476D1CE4E5B9);
        h = (h ^ h >> 27) * UINT64_C(0x94D049BB133111EB);
        h ^= h >> 31;
        x[i] = (float)(lo + (hi - lo) * (double)(h >> 11) * 0x1p-53);
    }
    return x;
}

/** NaN everywhere: an element the operation forgets, or reads before it writes, shows. */
static inline void poison(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = NAN;
}
static inline float *poisoned(int64_t n)
{
    float *x = take(n, sizeof *x);

    poison(x, n);
    return x;
}

static inline double *widen(const float *x, int64_t n)
{
    double *y = take(n, sizeof *y);

    for (int64_t i = 0; i < n; i++) y[i] = x[i];
    return y;
}

/** g against d f / d x by central differences, at all elements or, where there are many, at 40 of them; `base` is what
 * g held before (NULL: nothing). f reads x. Relative to the largest difference seen, but at least 0.01: terms of order
 * 1 may cancel. */
static inline void check_grad(const char *what, const float *g, const float *base, double *x, int64_t n,
                              double (*f)(const void *), const void *ctx, double tol)
{
    const int64_t step = n > 40 ? n / 40 : 1;
    double        err = 0, top = 0;

    for (int64_t i = 0; i < n; i += step) {
        const int64_t j = n > 40 ? (i + (i / step) * 7) % n : i; /* not always the same column */
        const double  h = 1e-5, x0 = x[j];
        double        d;

        x[j] = x0 + h;
        d = f(ctx);
        x[j] = x0 - h;
        d = (d - f(ctx)) / (2 * h);
        x[j] = x0;
        err = fmax(err, fabs((double)g[j] - (base ? base[j] : 0) - d));
        if (isnan(g[j])) err = INFINITY;
        top = fmax(top, fabs(d));
    }
    CHECK(err <= tol * fmax(top, 1e-2), "%s: gradient off by %.2e of %.2e, tolerance %.0e", what, err, top, tol);
}

/** `run` twice with two threads and once with one: out must hold the same bits each time. */
static inline void check_bits(const char *what, void (*run)(const void *), const void *ctx, float *out, int64_t n)
{
    const int threads = omp_get_max_threads();
    float    *first = take(n, sizeof *first);

    omp_set_num_threads(2);
    run(ctx);
    memcpy(first, out, (size_t)n * sizeof *out);
    for (int t = 2; t >= 1; t--) {
        omp_set_num_threads(t);
        poison(out, n);
        run(ctx);
        CHECK(memcmp(first, out, (size_t)n * sizeof *out) == 0, "%s: other bits with %d threads", what, t);
    }
    omp_set_num_threads(threads);
}

static inline double sum_product(const double *a, const double *b, int64_t n)
{
    double s = 0;

    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

static inline gr_tensor vec1(float *x, int64_t a)
{
    return gr_view1(x, GR_F32, a);
}
static inline gr_tensor mat(float *x, int64_t a, int64_t b)
{
    return gr_view2(x, GR_F32, a, b);
}
static inline gr_tensor ints(int32_t *x, int64_t a)
{
    return gr_view1(x, GR_I32, a);
}
#endif
