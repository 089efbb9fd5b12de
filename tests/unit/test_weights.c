/* A weights file as its readers see it: what is refused, by name and place, and what is read. */
/*TEST
np: 1
timeout: 20
*/
#include "store/h5.h"
#include "store/weights.h"
#include "tests/check.h"
#include "util/fs.h"
#include "util/half.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[GR_PATH_MAX], path[GR_PATH_MAX];

/* A file made by hand. NULL leaves an attribute out. */
static void make(const char *config_json, gr_dtype dtype, int rank, const int64_t *dim, const void *data)
{
    gr_h5 *f = NULL;

    CHECK(gr_h5_create(&f, path, "weights") == GR_OK, "create");
    if (config_json) CHECK(gr_h5_set_str(f, NULL, "config_json", config_json) == GR_OK, "config_json");
    CHECK(gr_h5_set_str(f, NULL, "pattern", "attn,gdn") == GR_OK, "pattern");
    CHECK(gr_h5_write(f, "w", dtype, rank, dim, data) == GR_OK, "write");
    CHECK(gr_h5_commit(&f) == GR_OK, "commit");
}

static gr_status open_it(gr_weights **w)
{
    return gr_weights_open(w, NULL, path);
}

static void refused(void)
{
    const int64_t one[] = {2}, empty[] = {0, 3};
    const float   x[] = {1, 2};
    const int32_t i[] = {1, 2};
    gr_weights   *w = NULL;
    gr_h5        *f = NULL;

    CHECK(open_it(&w) == GR_ERR_INPUT && !w, "a missing file");
    make(NULL, GR_F32, 1, one, x);
    CHECK(open_it(&w) == GR_ERR_INPUT && !w, "no config_json");
    make("[1]", GR_F32, 1, one, x);
    CHECK(open_it(&w) == GR_ERR_INPUT && !w, "config_json is not an object");
    make("{}", GR_I32, 1, one, i);
    CHECK(open_it(&w) == GR_ERR_INPUT && !w, "an integer tensor");
    make("{}", GR_F32, 2, empty, x);
    CHECK(open_it(&w) == GR_ERR_INPUT && !w, "an empty tensor");
    CHECK(gr_h5_create(&f, path, "logits") == GR_OK && gr_h5_commit(&f) == GR_OK, "another kind");
    CHECK(open_it(&w) == GR_ERR_INPUT && !w, "a file of another kind");
    make("{}", GR_F32, 1, one, x);
    CHECK(!truncate(path, 1000), "truncate");
    CHECK(open_it(&w) == GR_ERR_INPUT && !w, "a truncated file");
}

/* NaN and Inf in each type, far enough in for the vectorised loop and in its tail. */
static void not_finite(gr_dtype dtype, int64_t bad, float value)
{
    enum { ROWS = 3000, COLS = 3 };
    const int64_t   dim[] = {ROWS, COLS};
    static float    x[ROWS * COLS], back[ROWS * COLS];
    static uint16_t h[ROWS * COLS];
    gr_weights     *w = NULL;

    for (int k = 0; k < ROWS * COLS; k++) {
        x[k] = k == bad ? value : (float)(k % 256);
        h[k] = dtype == GR_F16 ? gr_f16_of_f32(x[k]) : gr_bf16_of_f32(x[k]);
    }
    make("{}", dtype, 2, dim, dtype == GR_F32 ? (void *)x : (void *)h);
    CHECK(open_it(&w) == GR_OK, "open");
    if (!w) return;
    CHECK(gr_weights_read(w, 0, 0, ROWS, back) == GR_ERR_INPUT, "%s: not finite at %lld", gr_dtype_name(dtype),
          (long long)bad);
    CHECK(gr_weights_read_raw(w, 0, 0, ROWS, back) == GR_ERR_INPUT, "%s raw: not finite at %lld", gr_dtype_name(dtype),
          (long long)bad);
    CHECK(gr_weights_read(w, 0, bad / COLS + 1, ROWS - bad / COLS - 1, back) == GR_OK, "rows behind it");
    CHECK(gr_weights_read(w, 0, 0, bad / COLS, back) == GR_OK && (bad == 0 || back[1] == 1), "rows before it");
    gr_weights_close(&w);
}

static gr_status give(void *user, int64_t i, int64_t first, int64_t count, void *data)
{
    (void)i;
    memcpy(data, (const float *)user + first, (size_t)count * sizeof(float));
    return GR_OK;
}

static void scalar_and_attributes(void)
{
    const gr_tensor_info t[] = {{"b.scalar", GR_F32, 0, {1, 1, 1, 1}}, {"a.vector", GR_F32, 1, {3, 1, 1, 1}}};
    float                x[] = {7, 8, 9}, back[3] = {0};
    gr_weights_plan      plan = {t, 2, "{\"hidden_size\": 3}", NULL, "attn", {.program = "test"}};
    gr_weights          *w = NULL;
    char                *long_json = NULL;

    CHECK(gr_alloc(&long_json, 1 << 20, 1, "text") == GR_OK, "memory");
    memset(long_json, 't', (1 << 20) - 1);
    plan.tokenizer_json = long_json;
    CHECK(gr_path(path, "%s/deep/er/weights.h5", dir) == GR_OK, "path");
    CHECK(gr_weights_write(NULL, path, &plan, give, x) == GR_OK, "write");
    CHECK(gr_path(path, "%s/deep/er", dir) == GR_OK && open_it(&w) == GR_OK, "open by directory");
    if (w) {
        CHECK(gr_weights_count(w) == 2 && gr_weights_find(w, "a.vector") == 0 && gr_weights_find(w, "b.scalar") == 1,
              "sorted");
        CHECK(gr_weights_find(w, "c") == -1, "absent");
        CHECK(gr_weights_info(w, 1)->rank == 0, "a scalar stays one");
        CHECK(gr_weights_read(w, 1, 0, 1, back) == GR_OK && back[0] == 7, "scalar");
        CHECK(gr_weights_read(w, 0, 1, 2, back) == GR_OK && back[0] == 8 && back[1] == 9, "rows");
        CHECK(gr_weights_read(w, 0, 2, 2, back) == GR_ERR_ARG, "rows that are not there");
        CHECK(!strcmp(gr_weights_config_json(w), "{\"hidden_size\": 3}") && !strcmp(gr_weights_pattern(w), "attn"),
              "attributes");
        CHECK(!strcmp(gr_weights_tokenizer_json(w), long_json), "a long tokenizer");
        CHECK(strlen(gr_weights_content(w)) == 16 && strstr(gr_weights_path(w), "deep/er/weights.h5"),
              "content and path");
    }
    gr_weights_close(&w);
    gr_free(&long_json);
}

/* The content of two tensors of three rows, of which one thing is changed. */
static void content_of(int changed, char content[17])
{
    gr_tensor_info  t[] = {{"a", GR_F32, 1, {3, 1, 1, 1}}, {"b", GR_F32, 1, {3, 1, 1, 1}}};
    float           x[] = {1, 2, 3};
    gr_weights_plan plan = {t, 2, "{}", "{\"model\": 1}", "attn", {.program = "test", .created = "2026"}};
    gr_weights     *w = NULL;

    if (changed == 1) plan.by.created = "2027";
    if (changed == 2) plan.config_json = "{ }";
    if (changed == 3) plan.tokenizer_json = "{\"model\": 2}";
    if (changed == 4) plan.pattern = "gdn";
    if (changed == 5) t[1].name = "c";
    if (changed == 6) t[0].rank = 2;
    if (changed == 7) x[2] = nextafterf(3, 4);
    if (changed == 8) x[0] = 2, x[1] = 1;
    CHECK(gr_path(path, "%s/content.h5", dir) == GR_OK, "path");
    CHECK(gr_weights_write(NULL, path, &plan, give, x) == GR_OK && open_it(&w) == GR_OK, "write and open");
    if (w) snprintf(content, 17, "%s", gr_weights_content(w));
    gr_weights_close(&w);
}

/* The writer's name and time are not content; everything else is. */
static void contents(void)
{
    char content[9][17] = {""};

    for (int i = 0; i < 9; i++) content_of(i, content[i]);
    CHECK(strlen(content[0]) == 16 && !strcmp(content[0], content[1]), "%s and %s", content[0], content[1]);
    for (int i = 2; i < 9; i++)
        for (int j = 1; j < i; j++)
            CHECK(strcmp(content[i], content[j]) != 0, "changes %d and %d: %s", i, j, content[i]);
}

static void bad_plans(void)
{
    gr_tensor_info  t = {"x", GR_I64, 1, {3, 1, 1, 1}};
    gr_weights_plan plan = {&t, 1, "{}", NULL, NULL, {0}};
    float           x[] = {1, NAN, 3};

    CHECK(gr_path(path, "%s/never.h5", dir) == GR_OK, "path");
    CHECK(gr_weights_write(NULL, path, &plan, give, x) == GR_ERR_ARG, "integers");
    t.dtype = GR_F32;
    CHECK(gr_weights_write(NULL, path, &plan, give, x) == GR_ERR_NUMERIC, "NaN is not written");
    t.dim[0] = 0;
    CHECK(gr_weights_write(NULL, path, &plan, give, x) == GR_ERR_ARG, "empty");
    t.dim[0] = INT64_MAX / 2;
    CHECK(gr_weights_write(NULL, path, &plan, give, x) == GR_ERR_ARG, "too large");
    plan.n = 0;
    CHECK(gr_weights_write(NULL, path, &plan, give, x) == GR_ERR_ARG, "nothing");
    CHECK(!gr_exists(path), "a refused file is there");
}

int main(void)
{
    const char    *scratch = getenv("GR_TEST_DIR");
    const gr_dtype type[] = {GR_F32, GR_BF16, GR_F16};

    CHECK(gr_path(dir, "%s/weights-unit", scratch ? scratch : ".") == GR_OK && gr_mkdirs(dir) == GR_OK, "directory");
    CHECK(gr_path(path, "%s/weights.h5", dir) == GR_OK, "path");
    refused();
    for (int t = 0; t < 3; t++) {
        not_finite(type[t], 0, NAN);
        not_finite(type[t], 4096, INFINITY);
        not_finite(type[t], 8999, -INFINITY);
        not_finite(type[t], 5000, -NAN);
    }
    scalar_and_attributes();
    contents();
    bad_plans();
    CHECK(gr_remove_tree(dir) == GR_OK, "clean up");
    return check_result();
}
