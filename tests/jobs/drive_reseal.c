/* drive_reseal FROM.h5 TO.h5 CHANGE: a copy of a weights file with one thing wrong and a seal that is right, as a bug
 * of ours would leave it. CHANGE: same, drop, extra, shape, nan, config, pattern, program, inputs. */
#include "store/h5.h"
#include "store/weights.h"
#include "tests/check.h"
#include <math.h>
#include <string.h>

static const char *change;

static bool is(const char *what)
{
    return !strcmp(change, what);
}

/* The tensors; the last one is the one that goes wrong. */
static void copy_tensors(gr_weights *from, gr_h5 *to)
{
    const int64_t n = gr_weights_count(from);

    for (int64_t i = 0; i < n; i++) {
        gr_tensor_info t = *gr_weights_info(from, i);
        int64_t        size = 1;
        float         *x = NULL;

        if (i == n - 1 && is("drop")) continue;
        for (int d = 0; d < t.rank; d++) size *= t.dim[d];
        CHECK(gr_alloc(&x, (uint64_t)size, sizeof *x, "tensor") == GR_OK, "memory");
        CHECK(gr_weights_read(from, i, 0, t.dim[0], x) == GR_OK, "%s", t.name);
        if (i == n - 1 && is("nan")) x[size / 2] = NAN;
        if (i == n - 1 && is("shape")) t.dim[0] -= 1;
        CHECK(gr_h5_write(to, t.name, GR_F32, t.rank, t.dim, x) == GR_OK, "%s", t.name);
        gr_free(&x);
    }
    if (is("extra"))
        CHECK(gr_h5_write(to, "model.extra.weight", GR_F32, 1, &(int64_t){1}, &(float){1}) == GR_OK, "write");
}

static void copy_attributes(gr_weights *from, gr_h5 *to)
{
    static const char *const name[] = {"config_json", "tokenizer_json", "pattern", "config", "program",
                                       "version",     "commit",         "created", "inputs"};

    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        char *text = NULL;
        CHECK(gr_weights_get(from, name[i], &text) == GR_OK, "%s", name[i]);
        if (is("config") && !strcmp(name[i], "config_json"))
            CHECK(gr_h5_set_str(to, NULL, name[i], "{\"model_type\": \"mystery\"}") == GR_OK, "set");
        else if (is("pattern") && !strcmp(name[i], "pattern"))
            CHECK(gr_h5_set_str(to, NULL, name[i], "attn") == GR_OK, "set");
        else if (is("inputs") && !strcmp(name[i], "inputs"))
            CHECK(gr_h5_set_str(to, NULL, name[i], "[1") == GR_OK, "set");
        else if (!is("program") || strcmp(name[i], "program") != 0)
            CHECK(gr_h5_set_str(to, NULL, name[i], text) == GR_OK, "set");
        gr_free(&text);
    }
}

int main(int argc, char **argv)
{
    gr_weights *from = NULL;
    gr_h5      *to = NULL;

    if (argc != 4) return 2;
    change = argv[3];
    CHECK(gr_weights_open(&from, NULL, argv[1]) == GR_OK && gr_h5_create(&to, argv[2], "weights") == GR_OK, "open");
    if (check_failed) return 1;
    copy_tensors(from, to);
    copy_attributes(from, to);
    CHECK(gr_h5_commit(&to) == GR_OK, "commit");
    gr_weights_close(&from);
    return check_result();
}
