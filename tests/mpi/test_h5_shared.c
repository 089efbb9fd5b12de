/* One sealed file written by several ranks equals, byte for byte, the one a single rank writes; so does a safetensors
 * file; and when one rank fails, all ranks learn it and nothing is left behind. */
/*TEST
np: 1 2 3 4
timeout: 60
*/
#include "store/h5.h"
#include "store/safetensors.h"
#include "store/seal.h"
#include "tests/check.h"
#include "util/fs.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 1001, COLS = 7, BIG = 17 << 20 }; /* BIG: two blocks of the checksum */

static char dir[GR_PATH_MAX];

static void name_in_dir(char path[GR_PATH_MAX], const char *name)
{
    CHECK(gr_path(path, "%s/%s", dir, name) == GR_OK, "path");
}

static void fill(float *x, uint8_t *b)
{
    for (int64_t i = 0; i < ROWS * COLS; i++) x[i] = (float)i / 7;
    for (int64_t i = 0; i < BIG; i++) b[i] = (uint8_t)(i * 2654435761u >> 13);
}

/* Reserve on rank 0, write everywhere, commit. c NULL: this rank alone. */
static gr_status write_shared(const gr_comm *c, const char *path, const float *x, const uint8_t *b, bool fail_put)
{
    gr_status     st = GR_OK;
    const int     rank = gr_comm_rank(c), size = gr_comm_size(c);
    const int64_t dim[] = {ROWS, COLS}, big[] = {BIG}, none[] = {0};
    int64_t       first, count;
    gr_h5        *f = NULL;
    gr_h5_slot    slot[3];
    char          tmp[GR_PATH_MAX];

    if (rank == 0) {
        st = gr_h5_create(&f, path, "checkpoint");
        if (st == GR_OK) st = gr_h5_reserve(f, "x", GR_F32, 2, dim);
        if (st == GR_OK) st = gr_h5_reserve(f, "none", GR_F32, 1, none);
        if (st == GR_OK) st = gr_h5_reserve(f, "big", GR_U8, 1, big);
        if (st == GR_OK) st = gr_h5_set_int(f, NULL, "step", 12);
    }
    GR_TRY(gr_agree(c, st));
    GR_TRY(gr_h5_share(c, &f, tmp, slot, 3));
    gr_share(ROWS, rank, size, &first, &count);
    st = gr_h5_put(tmp, &slot[0], (uint64_t)first * COLS * 4, x + first * COLS, (uint64_t)count * COLS * 4);
    if (st == GR_OK) st = gr_h5_put(tmp, &slot[1], 0, NULL, 0);
    gr_share(BIG, rank, size, &first, &count);
    if (st == GR_OK)
        st = gr_h5_put(tmp, &slot[2], (uint64_t)first, b + first, (uint64_t)count + (fail_put && rank == size - 1));
    st = gr_agree(c, st);
    if (st != GR_OK) {
        gr_h5_abandon_shared(c, tmp);
        goto out;
    }
    GR_TRY(gr_h5_commit_shared(c, tmp, path, "checkpoint"));
out:
    gr_h5_close(&f);
    return st;
}

static void compare(const char *one, const char *many)
{
    char    *a = NULL, *b = NULL;
    uint64_t na = 0, nb = 0;

    CHECK(gr_read_file(one, 1 << 27, &a, &na) == GR_OK && gr_read_file(many, 1 << 27, &b, &nb) == GR_OK, "read");
    CHECK(na == nb && a && b && !memcmp(a, b, na), "%s and %s differ", one, many);
    gr_free(&a);
    gr_free(&b);
}

static void check_clean(const char *missing)
{
    char  **name = NULL;
    int64_t n = 0;

    CHECK(!gr_exists(missing), "%s must not exist", missing);
    CHECK(gr_list(dir, &name, &n) == GR_OK, "list");
    for (int64_t i = 0; i < n; i++) CHECK(strncmp(name[i], ".tmp-", 5) != 0, "left behind: %s", name[i]);
    gr_names_free(&name, n);
}

static void test_shared(const gr_comm *c, const float *x, const uint8_t *b)
{
    const int rank = gr_comm_rank(c), size = gr_comm_size(c);
    char      one[GR_PATH_MAX], many[GR_PATH_MAX], site[64];
    gr_h5    *f = NULL;
    float     row[COLS];
    uint8_t   tail[3];

    name_in_dir(one, "one.h5");
    name_in_dir(many, "many.h5");
    if (rank == 0) CHECK(write_shared(NULL, one, x, b, false) == GR_OK, "one rank");
    CHECK(write_shared(c, many, x, b, false) == GR_OK, "all ranks");
    if (rank == 0) compare(one, many);

    CHECK(gr_h5_open_all(c, &f, many, "checkpoint") == GR_OK, "open on all ranks");
    if (f) {
        CHECK(gr_h5_read_f32(f, "x", ROWS - 1, 1, row) == GR_OK && !memcmp(row, x + (ROWS - 1) * COLS, sizeof row),
              "last row");
        CHECK(gr_h5_read(f, "big", GR_U8, BIG - 3, 3, tail) == GR_OK && !memcmp(tail, b + BIG - 3, 3), "last bytes");
    }
    gr_h5_close(&f);

    name_in_dir(many, "failed.h5");
    CHECK(write_shared(c, many, x, b, true) == GR_ERR_ARG, "a rank that writes too much");
    gr_barrier(c);
    if (rank == 0) check_clean(many);
    for (int bad = 0; bad < size; bad++) {
        for (int where = 0; where < 2; where++) {
            snprintf(site, sizeof site, "%s:%d", where ? "seal" : "share", bad);
            setenv("GR_FAULT", site, 1);
            CHECK(write_shared(c, many, x, b, false) == GR_ERR_IO, "fault at %s", site);
            gr_barrier(c);
            if (rank == 0) check_clean(many);
            gr_barrier(c);
        }
    }
    unsetenv("GR_FAULT");
}

/* Damage in either block is seen by all ranks, whoever checks that block. */
static void test_damage(const gr_comm *c)
{
    const int rank = gr_comm_rank(c);
    char      path[GR_PATH_MAX];
    gr_h5    *f = NULL;

    name_in_dir(path, "many.h5");
    for (int where = 0; where < 3; where++) {
        const long at[] = {600, 3000000, 17 << 20};
        if (rank == 0) {
            FILE *file = fopen(path, "r+b");
            CHECK(file && !fseek(file, at[where], SEEK_SET), "setting up");
            const int old = fgetc(file);
            CHECK(!fseek(file, at[where], SEEK_SET) && fputc(old ^ 4, file) >= 0 && !fclose(file), "setting up");
        }
        gr_barrier(c);
        CHECK(gr_h5_open_all(c, &f, path, "checkpoint") == GR_ERR_INPUT && !f, "damage at byte %ld", at[where]);
        gr_barrier(c);
    }
    CHECK(gr_h5_open_all(c, &f, "/none.h5", "checkpoint") == GR_ERR_INPUT && !f, "missing file");
}

static gr_status write_tensors(const gr_comm *c, const gr_st_plan *p, const char *path, const float *x)
{
    gr_status st = GR_OK;
    char      tmp[GR_PATH_MAX];
    int64_t   first, count;

    GR_TRY(gr_st_start(c, p, path, tmp));
    gr_share(ROWS, gr_comm_rank(c), gr_comm_size(c), &first, &count);
    st = gr_st_put(p, tmp, "w", (uint64_t)first * COLS * 4, x + first * COLS, (uint64_t)count * COLS * 4);
    if (st == GR_OK && gr_comm_rank(c) == gr_comm_size(c) - 1) st = gr_st_put(p, tmp, "b", 0, x, 6);
    st = gr_agree(c, st);
    if (st != GR_OK) {
        gr_st_abandon(c, tmp);
        goto out;
    }
    GR_TRY(gr_st_commit(c, p, tmp, path));
out:
    return st;
}

static void test_tensors(const gr_comm *c, const float *x)
{
    const gr_st_spec spec[] = {{"w", GR_F32, 2, {ROWS, COLS}}, {"b", GR_BF16, 1, {3}}};
    const int        rank = gr_comm_rank(c);
    char             one[GR_PATH_MAX], many[GR_PATH_MAX], site[64];
    gr_st_plan      *p = NULL;

    name_in_dir(one, "one.safetensors");
    name_in_dir(many, "many.safetensors");
    CHECK(gr_st_plan_open(&p, spec, 2) == GR_OK, "plan");
    if (rank == 0) CHECK(write_tensors(NULL, p, one, x) == GR_OK, "one rank");
    CHECK(write_tensors(c, p, many, x) == GR_OK, "all ranks");
    if (rank == 0) compare(one, many);
    name_in_dir(many, "failed.safetensors");
    for (int bad = 0; bad < gr_comm_size(c); bad++) {
        snprintf(site, sizeof site, "st_%s:%d", bad % 2 ? "start" : "commit", bad);
        setenv("GR_FAULT", site, 1);
        CHECK(write_tensors(c, p, many, x) == GR_ERR_IO, "fault at %s", site);
        gr_barrier(c);
        if (rank == 0) check_clean(many);
        gr_barrier(c);
    }
    unsetenv("GR_FAULT");
    gr_st_plan_close(&p);
}

int main(int argc, char **argv)
{
    gr_comm *world = NULL;
    float   *x = NULL;
    uint8_t *b = NULL;

    CHECK(gr_comm_init(&world, &argc, &argv) == GR_OK, "init");
    gr_log_identity("test_h5_shared", gr_comm_rank(world));
    if (gr_comm_rank(world) == 0) {
        const char *base = getenv("GR_TEST_DIR");
        snprintf(dir, sizeof dir, "%s/graft-shared-XXXXXX", base ? base : "/tmp");
        CHECK(mkdtemp(dir), "directory");
    }
    gr_bcast(world, dir, sizeof dir, 0);
    CHECK(gr_alloc(&x, ROWS * COLS, sizeof *x, "data") == GR_OK && gr_alloc(&b, BIG, 1, "data") == GR_OK, "memory");
    fill(x, b);
    test_shared(world, x, b);
    test_damage(world);
    test_tensors(world, x);
    gr_barrier(world);
    if (gr_comm_rank(world) == 0) CHECK(gr_remove_tree(dir) == GR_OK, "tidy up");
    gr_free(&x);
    gr_free(&b);
    gr_comm_finalize(&world);
    return check_result();
}
