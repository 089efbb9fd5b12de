/** @file check.h  What a test needs: CHECK with a message, and a relative error that explains itself.
 *
 * A test is a program. Its TEST block names the rank counts and the time limit; tests/run.sh finds
 * it by glob. It returns check_result(): 0, or 1 when a CHECK failed or memory leaked; 77 = skipped.
 */
#ifndef GR_TESTS_CHECK_H
#define GR_TESTS_CHECK_H
#include "util/mem.h"
#include <math.h>
#include <stdint.h>
#include <stdio.h>

static int check_failed;

#define CHECK(ok, ...)                                                                                                 \
    do {                                                                                                               \
        if (!(ok)) {                                                                                                   \
            check_failed = 1;                                                                                          \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                            \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
        }                                                                                                              \
    } while (0)

/** max |a - b| / max |b|; NaN or Inf anywhere gives INFINITY. a is what we made, b the oracle. */
static inline double check_rel(const float *a, const double *b, int64_t n)
{
    double err = 0, top = 0;

    for (int64_t i = 0; i < n; i++) {
        const double d = fabs((double)a[i] - b[i]);
        if (!(d < INFINITY)) return INFINITY;
        if (d > err) err = d;
        if (fabs(b[i]) > top) top = fabs(b[i]);
    }
    return top > 0 ? err / top : err;
}

#define CHECK_REL(a, b, n, tol, what)                                                                                  \
    do {                                                                                                               \
        const double rel_ = check_rel((a), (b), (n));                                                                  \
        CHECK(rel_ <= (tol), "%s: relative error %.2e > %.2e", (what), rel_, (double)(tol));                           \
    } while (0)

static inline int check_result(void)
{
    CHECK(gr_mem_live() == 0, "%lld blocks leaked", (long long)gr_mem_live());
    return check_failed;
}
#endif
