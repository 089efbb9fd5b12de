/* Weights written by all ranks are, byte for byte, those that one rank writes; read back in any cut they are the same;
 * and when one rank fails, all return its status and no file appears. */
/*TEST
np: 1 2 3 4
timeout: 60
*/
#include "comm/comm.h"
#include "store/seal.h"
#include "store/weights.h"
#include "tests/check.h"
#include "util/fs.h"
#include <stdlib.h>
#include <string.h>

enum { N = 6, BIG = 4000000 };

static const gr_tensor_info tensor[N] = {
    {"embed.weight", GR_BF16, 2, {1001, 7, 1, 1}},
    {"a.scalar", GR_F32, 0, {1, 1, 1, 1}},
    {"one_row", GR_F32, 2, {1, 12345, 1, 1}},
    {"norm", GR_F16, 1, {33, 1, 1, 1}},
    {"conv", GR_F32, 4, {5, 3, 2, 4}},
    {"big", GR_F32, 2, {BIG, 5, 1, 1}}, /* 80 MB: two pieces */
};

typedef struct source {
    int     fail; /* this rank: at which call; -1 never */
    int     nan;  /* this rank: the same, NaN           */
    int     calls;
    int64_t bytes;
} source;

/* Element e of tensor i; exact in every type. */
static float value(int64_t i, int64_t e)
{
    return (float)((e * 7 + i) % 251 - 125);
}

static gr_status give(void *user, int64_t i, int64_t first, int64_t count, void *data)
{
    source  *s = user;
    int64_t  row = 1;
    uint16_t h;

    if (s->calls == s->fail) return GR_ERR_DEVICE;
    for (int d = 1; d < tensor[i].rank; d++) row *= tensor[i].dim[d];
    for (int64_t e = 0; e < count * row; e++) {
        const float x = s->calls == s->nan && e == 0 ? NAN : value(i, first * row + e);
        if (tensor[i].dtype == GR_F32) {
            ((float *)data)[e] = x;
        } else { /* of these small integers both are the fp32 of another bias; any bits do */
            h = (uint16_t)(0x3C00 + (int)value(i, first * row + e));
            ((uint16_t *)data)[e] = h;
        }
    }
    s->calls++;
    s->bytes += count * row * gr_dtype_size(tensor[i].dtype);
    return GR_OK;
}

static gr_weights_plan plan_of(void)
{
    const gr_weights_plan plan = {tensor, N,          "{\"layers\": 2}",
                                  "",     "attn,gdn", {"test", "0", "abc", "2026-01-01T00:00:00Z", "a: 1\n", "[]"}};

    return plan;
}

static void same_as_one_rank(const gr_comm *c, const char *dir)
{
    const gr_weights_plan plan = plan_of();
    source                all = {-1, -1, 0, 0}, one = {-1, -1, 0, 0};
    char                  path[GR_PATH_MAX], alone[GR_PATH_MAX], content[2][32] = {"", "?"};
    gr_seal               seal[2];
    gr_weights           *w = NULL;
    int64_t               bytes;

    CHECK(gr_path(path, "%s/all.h5", dir) == GR_OK && gr_path(alone, "%s/one.h5", dir) == GR_OK, "paths");
    CHECK(gr_weights_write(c, path, &plan, give, &all) == GR_OK, "write");
    if (gr_comm_rank(c) == 0) CHECK(gr_weights_write(NULL, alone, &plan, give, &one) == GR_OK, "write alone");
    gr_bcast(c, &one, sizeof one, 0);
    CHECK(all.bytes < one.bytes / gr_comm_size(c) + 100000, "%lld of %lld bytes on one rank of %d",
          (long long)all.bytes, (long long)one.bytes, gr_comm_size(c));
    bytes = all.bytes;
    gr_sum_i64(c, &bytes, 1);
    CHECK(bytes == one.bytes, "all ranks wrote %lld bytes, one alone %lld", (long long)bytes, (long long)one.bytes);
    for (int k = 0; k < 2; k++) {
        CHECK(gr_weights_open(&w, c, k ? alone : path) == GR_OK, "open");
        if (w) snprintf(content[k], sizeof content[k], "%s", gr_weights_content(w));
        gr_weights_close(&w);
    }
    CHECK(gr_seal_read(path, "weights", &seal[0]) == GR_OK && gr_seal_read(alone, "weights", &seal[1]) == GR_OK,
          "seals");
    CHECK(!strcmp(seal[0].id, seal[1].id), "seals %s and %s", seal[0].id, seal[1].id);
    CHECK(!strcmp(content[0], content[1]) && !strcmp(content[0], seal[0].content), "contents %s and %s", content[0],
          content[1]);
}

/* Each rank reads another cut of each tensor. */
static void read_back(const gr_comm *c, const char *dir)
{
    char        path[GR_PATH_MAX];
    gr_weights *w = NULL;
    float      *x = NULL;

    CHECK(gr_path(path, "%s/all.h5", dir) == GR_OK && gr_weights_open(&w, c, path) == GR_OK, "open");
    CHECK(gr_alloc(&x, BIG, 5 * sizeof *x, "rows") == GR_OK, "memory");
    for (int64_t i = 0; i < N && w && x; i++) {
        const int64_t at = gr_weights_find(w, tensor[i].name), rows = tensor[i].rank ? tensor[i].dim[0] : 1;
        int64_t       row = 1, first, count;

        for (int d = 1; d < tensor[i].rank; d++) row *= tensor[i].dim[d];
        gr_share(rows, gr_comm_size(c) - 1 - gr_comm_rank(c), gr_comm_size(c), &first, &count);
        CHECK(at >= 0 && gr_weights_read(w, at, first, count, x) == GR_OK, "read %s", tensor[i].name);
        for (int64_t e = 0; e < count * row && !check_failed && tensor[i].dtype == GR_F32; e++)
            CHECK(x[e] == value(i, first * row + e), "%s: element %lld of row %lld", tensor[i].name, (long long)e,
                  (long long)first);
        CHECK(gr_weights_read_raw(w, at, first, count, x) == GR_OK, "read raw %s", tensor[i].name);
        for (int64_t e = 0; e < count * row && !check_failed && tensor[i].dtype != GR_F32; e++)
            CHECK(((uint16_t *)(void *)x)[e] == 0x3C00 + (int)value(i, first * row + e), "%s: element %lld",
                  tensor[i].name, (long long)e);
    }
    gr_free(&x);
    gr_weights_close(&w);
}

/* One rank fails, at one of its calls, by an error, by NaN, or at a site. */
static void failures(const gr_comm *c, const char *dir)
{
    gr_weights_plan          plan = plan_of();
    gr_tensor_info           small[N];
    static const char *const site[] = {"weights", "share", "seal"};
    char                     path[GR_PATH_MAX], fault[64];

    CHECK(gr_path(path, "%s/never.h5", dir) == GR_OK, "path");
    memcpy(small, tensor, sizeof small);
    small[N - 1].dim[0] = BIG / 100; /* still most of it: every rank has a part */
    plan.tensor = small;
    for (int bad = 0; bad < gr_comm_size(c); bad++) {
        source    s = {gr_comm_rank(c) == bad ? 0 : -1, -1, 0, 0}, nan = {-1, gr_comm_rank(c) == bad ? 0 : -1, 0, 0};
        gr_status st;

        CHECK(gr_weights_write(c, path, &plan, give, &s) == GR_ERR_DEVICE, "rank %d fails", bad);
        CHECK(!gr_exists(path), "a file after rank %d failed", bad);
        if (bad > 0) { /* the first piece of rank 0 is bf16 */
            CHECK(gr_weights_write(c, path, &plan, give, &nan) == GR_ERR_NUMERIC, "rank %d has NaN", bad);
            CHECK(!gr_exists(path), "a file with NaN of rank %d", bad);
        }
        for (int k = 0; k < 3; k++) {
            source ok = {-1, -1, 0, 0};
            snprintf(fault, sizeof fault, "%s:%d", site[k], bad);
            setenv("GR_FAULT", fault, 1);
            st = gr_weights_write(c, path, &plan, give, &ok);
            unsetenv("GR_FAULT");
            CHECK(st == GR_ERR_IO, "%s: %s", fault, gr_status_name(st));
            CHECK(!gr_exists(path), "a file after %s", fault);
        }
    }
    gr_barrier(c);
    if (gr_comm_rank(c) == 0) {
        char  **name = NULL;
        int64_t n = 0;
        CHECK(gr_list(dir, &name, &n) == GR_OK && n == 2, "%lld files, expected all.h5 and one.h5", (long long)n);
        gr_names_free(&name, n);
    }
}

int main(int argc, char **argv)
{
    const char *scratch = getenv("GR_TEST_DIR");
    char        dir[GR_PATH_MAX];
    gr_comm    *c = NULL;

    if (gr_comm_init(&c, &argc, &argv) != GR_OK) return 1;
    gr_log_identity("test_weights", gr_comm_rank(c));
    CHECK(gr_path(dir, "%s/weights-mpi", scratch ? scratch : ".") == GR_OK, "directory");
    same_as_one_rank(c, dir);
    read_back(c, dir);
    failures(c, dir);
    gr_barrier(c);
    if (gr_comm_rank(c) == 0) CHECK(gr_remove_tree(dir) == GR_OK, "clean up");
    gr_comm_finalize(&c);
    return check_result();
}
