/* drive_logits LOGITS.h5 EXPECTED.json TOLERANCE: is max |ours - recorded| / max |recorded| within the tolerance?
 * Prints the figure. */
#include "store/h5.h"
#include "tests/check.h"
#include "util/json.h"
#include <stdlib.h>

int main(int argc, char **argv)
{
    gr_h5   *f = NULL;
    json_t  *expected = NULL;
    gr_dtype dtype;
    int      rank = 0;
    int64_t  dim[GR_MAX_DIM];
    float   *z = NULL;
    double   err = 0, top = 0;

    if (argc != 4) return 2;
    CHECK(gr_h5_open(&f, argv[1], "raw-logits") == GR_OK && gr_json_load(argv[2], &expected) == GR_OK, "inputs");
    if (check_failed) return 1;
    CHECK(gr_h5_info(f, "logits", &dtype, &rank, dim) == GR_OK && dtype == GR_F32 && rank == 3, "shape");
    CHECK(gr_alloc(&z, (uint64_t)(dim[0] * dim[1] * dim[2]), sizeof *z, "logits") == GR_OK, "memory");
    CHECK(gr_h5_read(f, "logits", GR_F32, 0, dim[0], z) == GR_OK, "read");
    const json_t *where = json_object_get(expected, "positions"), *all = json_object_get(expected, "logits");
    CHECK((int64_t)json_array_size(all) == dim[0] && json_array_size(where) > 0, "%zu sequences", json_array_size(all));
    for (int64_t b = 0; b < dim[0]; b++)
        for (size_t i = 0; i < json_array_size(where); i++) {
            const int64_t t = json_integer_value(json_array_get(where, i));
            const json_t *row = json_array_get(json_array_get(all, (size_t)b), i);
            CHECK((int64_t)json_array_size(row) == dim[2], "%zu logits, expected %lld", json_array_size(row),
                  (long long)dim[2]);
            for (int64_t v = 0; v < dim[2]; v++) {
                const double x = json_number_value(json_array_get(row, (size_t)v));
                err = fmax(err, fabs(z[(b * dim[1] + t) * dim[2] + v] - x));
                top = fmax(top, fabs(x));
            }
        }
    printf("max |ours - recorded| / max |recorded| = %.2e\n", err / top);
    CHECK(err / top <= atof(argv[3]), "%.2e > %s", err / top, argv[3]);
    gr_free(&z);
    json_decref(expected);
    gr_h5_close(&f);
    return check_result();
}
