/* drive_weights A.h5 B.h5 TOLERANCE: same tensors, and values equal to the tolerance relative to each tensor's largest
 * (0: bit for bit)? Prints the largest difference and where it is. */
#include "store/weights.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

static double compare(gr_weights *a, gr_weights *b, int64_t i, int64_t j)
{
    const gr_tensor_info *t = gr_weights_info(a, i), *u = gr_weights_info(b, j);
    int64_t               n = 1;
    float                *x = NULL, *y = NULL;
    double                err = 0, top = 0;

    CHECK(t->rank == u->rank && !memcmp(t->dim, u->dim, (size_t)t->rank * sizeof *t->dim), "%s: shapes differ",
          t->name);
    for (int d = 0; d < t->rank; d++) n *= t->dim[d];
    CHECK(gr_alloc(&x, (uint64_t)n, sizeof *x, "a") == GR_OK && gr_alloc(&y, (uint64_t)n, sizeof *y, "b") == GR_OK,
          "memory");
    CHECK(gr_weights_read(a, i, 0, t->dim[0], x) == GR_OK && gr_weights_read(b, j, 0, u->dim[0], y) == GR_OK,
          "%s: read", t->name);
    for (int64_t k = 0; k < n; k++) {
        err = fmax(err, fabs((double)x[k] - y[k]));
        top = fmax(top, fabs((double)y[k]));
    }
    if (err == 0 && memcmp(x, y, (size_t)n * sizeof *x)) err = 1e-300; /* -0 and 0 */
    gr_free(&x);
    gr_free(&y);
    return top > 0 ? err / top : err;
}

int main(int argc, char **argv)
{
    gr_weights *a = NULL, *b = NULL;
    double      worst = 0;
    const char *where = "";

    if (argc != 4) return 2;
    CHECK(gr_weights_open(&a, NULL, argv[1]) == GR_OK && gr_weights_open(&b, NULL, argv[2]) == GR_OK, "open");
    if (check_failed) return 1;
    CHECK(gr_weights_count(a) == gr_weights_count(b), "%lld tensors and %lld", (long long)gr_weights_count(a),
          (long long)gr_weights_count(b));
    for (int64_t i = 0; i < gr_weights_count(a) && !check_failed; i++) {
        const char   *name = gr_weights_info(a, i)->name;
        const int64_t j = gr_weights_find(b, name);
        CHECK(j >= 0, "%s is in one file only", name);
        if (j < 0) break;
        const double d = compare(a, b, i, j);
        if (d > worst) {
            worst = d;
            where = name;
        }
    }
    printf("%lld tensors, largest difference %.2e %s\n", (long long)gr_weights_count(a), worst, where);
    CHECK(worst <= atof(argv[3]), "%.2e > %s", worst, argv[3]);
    gr_weights_close(&b);
    gr_weights_close(&a);
    return check_result();
}
