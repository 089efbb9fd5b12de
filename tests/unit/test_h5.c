/* Sealed HDF5 files: what is written comes back, what is damaged is refused, what is foreign is refused. */
/*TEST
np: 1
timeout: 60
*/
#include "store/h5.h"
#include "store/seal.h"
#include "store/widen.h"
#include "tests/check.h"
#include "util/fs.h"
#include <hdf5.h> /* to make hostile files; only src/store/h5*.c may do so in Graft itself */
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char dir[GR_PATH_MAX];

static const char *in_dir(const char *name)
{
    static char path[32][GR_PATH_MAX];
    static int  turn;

    turn = (turn + 1) % 32;
    CHECK(gr_path(path[turn], "%s/%s", dir, name) == GR_OK, "path");
    return path[turn];
}

static gr_status write_sample(const char *path, bool with_long)
{
    gr_status      st = GR_OK;
    gr_h5         *f = NULL;
    static char    big[70000];
    const int64_t  one[] = {5}, two[] = {3, 4}, none[] = {0, 7};
    const uint16_t bf16[] = {0x3F80, 0xC000, 0x7F80, 0x0001, 0x8000}; /* 1 -2 inf subnormal -0 */
    const uint16_t f16[] = {0x3C00, 0xC000, 0x7C00, 0x0001, 0x8000};
    float          x[12];
    int64_t        scalar = -7;

    for (int i = 0; i < 12; i++) x[i] = (float)i / 3;
    memset(big, 0, sizeof big);
    memset(big, 'x', with_long ? sizeof big - 1 : 1);
    GR_TRY(gr_h5_create(&f, path, "weights"));
    GR_TRY(gr_h5_write(f, "b.x", GR_F32, 2, two, x));
    GR_TRY(gr_h5_write(f, "a.bf16", GR_BF16, 1, one, bf16));
    GR_TRY(gr_h5_write(f, "a.f16", GR_F16, 1, one, f16));
    GR_TRY(gr_h5_write(f, "empty", GR_U8, 2, none, NULL));
    GR_TRY(gr_h5_write(f, "scalar", GR_I64, 0, NULL, &scalar));
    GR_TRY(gr_h5_set_str(f, NULL, "config", big));
    GR_TRY(gr_h5_set_str(f, NULL, "note", "caf\xC3\xA9"));
    GR_TRY(gr_h5_set_str(f, "b.x", "role", ""));
    GR_TRY(gr_h5_set_str(f, "b.x", "long", big));
    GR_TRY(gr_h5_set_int(f, NULL, "layers", INT64_MIN));
    GR_TRY(gr_h5_set_num(f, "b.x", "scale", 0.1));
    GR_TRY(gr_h5_commit(&f));
out:
    gr_h5_close(&f);
    return st;
}

static void test_round_trip(void)
{
    const char        *path = in_dir("a.h5");
    gr_h5             *f = NULL;
    const char *const *name = NULL;
    char              *s = NULL;
    int64_t            n = 0, dim[GR_MAX_DIM], i = 0;
    int                rank;
    gr_dtype           t;
    float              x[12];
    double             v = 0;
    uint16_t           raw[5];
    char               seal[17];
    gr_seal            full;

    CHECK(write_sample(path, true) == GR_OK, "write");
    CHECK(!gr_exists(in_dir(".tmp-a.h5")), "temporary file left");
    CHECK(gr_h5_open(&f, path, "weights") == GR_OK, "open");
    if (!f) return;
    CHECK(strlen(gr_h5_seal_of(f)) == 16, "seal");
    CHECK(gr_h5_names(f, &name, &n) == GR_OK && n == 5 && !strcmp(name[0], "a.bf16") && !strcmp(name[4], "scalar"),
          "names");
    CHECK(gr_h5_has(f, "b.x") && !gr_h5_has(f, "b") && !gr_h5_has(f, "@config"), "has");
    CHECK(gr_h5_info(f, "b.x", &t, &rank, dim) == GR_OK && t == GR_F32 && rank == 2 && dim[0] == 3 && dim[1] == 4 &&
              dim[2] == 1,
          "info");
    CHECK(gr_h5_info(f, "empty", &t, &rank, dim) == GR_OK && t == GR_U8 && rank == 2 && dim[0] == 0, "empty");
    CHECK(gr_h5_read(f, "empty", GR_U8, 0, 0, NULL) == GR_OK, "reading nothing");
    CHECK(gr_h5_read(f, "b.x", GR_F32, 1, 2, x) == GR_OK && x[0] == 4.f / 3 && x[7] == 11.f / 3, "rows");
    CHECK(gr_h5_read(f, "scalar", GR_I64, 0, 1, &i) == GR_OK && i == -7, "scalar");
    CHECK(gr_h5_read(f, "a.bf16", GR_BF16, 0, 5, raw) == GR_OK && raw[3] == 1, "raw bf16");
    CHECK(gr_h5_read_f32(f, "a.bf16", 0, 5, x) == GR_OK && x[0] == 1 && x[1] == -2 && isinf(x[2]) &&
              x[3] == 0x1p-133f && signbit(x[4]),
          "bf16: %g %g %g %g %g", x[0], x[1], x[2], x[3], x[4]);
    CHECK(gr_h5_read_f32(f, "a.f16", 0, 5, x) == GR_OK && x[0] == 1 && x[1] == -2 && isinf(x[2]) && x[3] == 0x1p-24f &&
              signbit(x[4]),
          "f16");
    CHECK(gr_h5_read_f32(f, "a.f16", 1, 3, x) == GR_OK && x[0] == -2 && x[2] == 0x1p-24f, "odd number of rows");

    CHECK(gr_h5_get_str(f, NULL, "config", &s) == GR_OK && strlen(s) == 69999 && s[69998] == 'x', "long string");
    gr_free(&s);
    CHECK(gr_h5_get_str(f, "b.x", "long", &s) == GR_OK && strlen(s) == 69999, "long string of a dataset");
    gr_free(&s);
    CHECK(gr_h5_get_str(f, NULL, "note", &s) == GR_OK && !strcmp(s, "caf\xC3\xA9"), "string");
    gr_free(&s);
    CHECK(gr_h5_get_str(f, "b.x", "role", &s) == GR_OK && !*s, "empty string");
    gr_free(&s);
    CHECK(gr_h5_get_int(f, NULL, "layers", &i) == GR_OK && i == INT64_MIN, "int");
    CHECK(gr_h5_get_num(f, "b.x", "scale", &v) == GR_OK && v == 0.1, "num");
    CHECK(gr_h5_has_attr(f, NULL, "config") && gr_h5_has_attr(f, "b.x", "role") && !gr_h5_has_attr(f, NULL, "role"),
          "has_attr");

    CHECK(gr_h5_read(f, "b.x", GR_U32, 0, 1, x) == GR_ERR_INPUT, "wrong type");
    CHECK(gr_h5_read(f, "c", GR_F32, 0, 1, x) == GR_ERR_INPUT, "absent dataset");
    CHECK(gr_h5_read(f, "b.x", GR_F32, 2, 2, x) == GR_ERR_ARG, "rows beyond the end");
    CHECK(gr_h5_read(f, "b.x", GR_F32, INT64_MAX, INT64_MAX, x) == GR_ERR_ARG, "rows that overflow");
    CHECK(gr_h5_read_f32(f, "scalar", 0, 1, x) == GR_ERR_INPUT, "i64 as f32");
    CHECK(gr_h5_get_int(f, NULL, "note", &i) == GR_ERR_INPUT && gr_h5_get_str(f, NULL, "layers", &s) == GR_ERR_INPUT,
          "attribute types");
    CHECK(gr_h5_get_num(f, NULL, "nothing", &v) == GR_ERR_INPUT && gr_h5_get_int(f, "c", "x", &i) == GR_ERR_INPUT,
          "absent attributes");
    CHECK(gr_h5_write(f, "new", GR_F32, 1, dim, x) == GR_ERR_ARG, "writing to a file open for reading");
    snprintf(seal, sizeof seal, "%s", gr_h5_seal_of(f));
    gr_h5_close(&f);
    CHECK(gr_h5_open_known(&f, path, "weights", seal) == GR_OK && gr_h5_has(f, "b.x"), "open by its seal");
    gr_h5_close(&f);
    seal[0] ^= 1;
    CHECK(gr_h5_open_known(&f, path, "weights", seal) == GR_ERR_INPUT && !f, "another seal");
    CHECK(gr_seal_read(path, "weights", &full) == GR_OK && strcmp(full.id, seal) != 0 && !strcmp(full.kind, "weights"),
          "seal");
}

/* Every one of the 65536 halves against the definition. */
static void test_widen(void)
{
    static uint16_t h[65536];
    static float    x[65536];
    int             wrong = 0;

    for (int i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    gr_widen_f32(GR_F16, h, x, 65536);
    for (int i = 0; i < 65536; i++) {
        const int    e = i >> 10 & 31, m = i & 1023;
        const double v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
        wrong += isnan(v) ? !isnan(x[i]) : fabs((double)x[i]) != v || !!signbit(x[i]) != i >> 15;
    }
    CHECK(wrong == 0, "f16: %d of 65536 values are wrong", wrong);
    memcpy((char *)x + sizeof x / 2, h, sizeof h); /* in place */
    gr_widen_f32(GR_BF16, (char *)x + sizeof x / 2, x, 65536);
    for (uint32_t i = 0; i < 65536; i++) wrong += memcmp(&x[i], &(uint32_t){i << 16}, 4) != 0;
    CHECK(wrong == 0, "bf16: %d of 65536 values are wrong", wrong);
}

static void test_same_bytes(void)
{
    char    *a = NULL, *b = NULL;
    uint64_t na = 0, nb = 0;

    CHECK(write_sample(in_dir("same1.h5"), false) == GR_OK, "write");
    sleep(1); /* a modification time inside the file would differ now */
    CHECK(write_sample(in_dir("same2.h5"), false) == GR_OK, "write");
    CHECK(gr_read_file(in_dir("same1.h5"), 1 << 20, &a, &na) == GR_OK &&
              gr_read_file(in_dir("same2.h5"), 1 << 20, &b, &nb) == GR_OK,
          "read");
    CHECK(na == nb && !memcmp(a, b, na), "same content, other bytes");
    gr_free(&a);
    gr_free(&b);
}

/* Each byte of a small file, with one bit, and all bits, turned over. */
static void test_damage(void)
{
    const char *bad = in_dir("bad.h5");
    char       *text = NULL;
    uint64_t    n = 0;
    gr_h5      *f = NULL;
    const int   keep_err = dup(STDERR_FILENO);
    FILE       *log = freopen(in_dir("log"), "w", stderr); /* thousands of messages, as they should be */
    int         accepted = 0;

    CHECK(log && gr_read_file(in_dir("same1.h5"), 1 << 20, &text, &n) == GR_OK, "read");
    for (uint64_t i = 0; text && i < n; i++) {
        for (int how = 0; how < 2; how++) {
            const char keep = text[i];
            FILE      *file = fopen(bad, "wb");
            text[i] = (char)(how ? ~keep : keep ^ (1 << i % 8));
            CHECK(file && fwrite(text, 1, n, file) == n && !fclose(file), "setting up");
            text[i] = keep;
            if (gr_h5_open(&f, bad, NULL) != GR_ERR_INPUT) accepted++;
            gr_h5_close(&f);
        }
    }
    for (uint64_t k = 0; text && k < n; k += 61) {
        CHECK(!truncate(bad, (off_t)k), "setting up");
        if (gr_h5_open(&f, bad, NULL) != GR_ERR_INPUT) accepted++;
        gr_h5_close(&f);
        FILE *file = fopen(bad, "wb");
        CHECK(file && fwrite(text, 1, n, file) == n && !fclose(file), "setting up");
    }
    CHECK(!truncate(bad, (off_t)n + 1) && gr_h5_open(&f, bad, NULL) == GR_ERR_INPUT, "a byte appended");
    CHECK(gr_h5_open(&f, in_dir("same1.h5"), "shard") == GR_ERR_INPUT, "wrong kind");
    CHECK(gr_h5_open(&f, in_dir("missing.h5"), NULL) == GR_ERR_INPUT, "missing");
    CHECK(gr_h5_open(&f, dir, NULL) == GR_ERR_INPUT, "a directory");
    CHECK(!mkfifo(in_dir("fifo"), 0600) && gr_h5_open(&f, in_dir("fifo"), NULL) == GR_ERR_INPUT, "a fifo");
    fflush(stderr);
    dup2(keep_err, STDERR_FILENO);
    close(keep_err);
    CHECK(accepted == 0, "%d damaged files accepted", accepted);
    CHECK(!check_failed, "more in %s/log", dir);
    gr_free(&text);
}

/* A file with a true seal around HDF5 content that Graft never writes. */
static const char *hostile(int which)
{
    const char *tmp = in_dir("hostile.tmp"), *path = in_dir("hostile.h5");
    hsize_t     dim[5] = {4, 1, 1, 1, 1};
    const hid_t fcpl = H5Pcreate(H5P_FILE_CREATE), made = H5Pcreate(H5P_DATASET_CREATE),
                space = H5Screate_simple(1, dim, NULL);
    const hid_t five = H5Screate_simple(5, dim, NULL);
    hid_t       file, d = -1, text;

    H5Pset_userblock(fcpl, 512);
    file = H5Fcreate(tmp, H5F_ACC_TRUNC, fcpl, H5P_DEFAULT);
    switch (which) {
    case 0: H5Pset_external(made, "/etc/hostname", 0, 16); break;
    case 1: H5Pset_chunk(made, 1, dim); break;
    case 2: H5Pset_chunk(made, 1, dim), H5Pset_fletcher32(made); break;
    case 3: H5Pset_layout(made, H5D_COMPACT); break;
    case 4: H5Pset_layout(made, H5D_VIRTUAL), H5Pset_virtual(made, space, "other.h5", "x", space); break;
    case 5: /* a soft link to a good dataset */
        d = H5Dcreate2(file, "y", H5T_IEEE_F32LE, space, H5P_DEFAULT, made, H5P_DEFAULT);
        H5Dwrite(d, H5T_IEEE_F32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, (float[4]){0});
        H5Lcreate_soft("/y", file, "x", H5P_DEFAULT, H5P_DEFAULT);
        break;
    case 6: H5Lcreate_external(in_dir("a.h5"), "b.x", file, "x", H5P_DEFAULT, H5P_DEFAULT); break; /* to a good file */
    case 7: d = H5Dcreate2(file, "x", H5T_IEEE_F32BE, space, H5P_DEFAULT, made, H5P_DEFAULT); break;
    case 8:
        text = H5Tcopy(H5T_C_S1), H5Tset_size(text, H5T_VARIABLE),
        d = H5Dcreate2(file, "x", text, space, H5P_DEFAULT, made, H5P_DEFAULT);
        break;
    case 9: d = H5Dcreate2(file, "x", H5T_IEEE_F32LE, five, H5P_DEFAULT, made, H5P_DEFAULT); break;
    case 10: d = H5Gcreate2(file, "x", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT); break;
    case 11: d = H5Dcreate2(file, "x", H5T_IEEE_F32LE, H5Screate(H5S_NULL), H5P_DEFAULT, made, H5P_DEFAULT); break;
    }
    if (which < 5) d = H5Dcreate2(file, "x", H5T_IEEE_F32LE, space, H5P_DEFAULT, made, H5P_DEFAULT);
    if (which == 12) H5Fflush(file, H5F_SCOPE_GLOBAL); /* no "x" at all */
    if (d >= 0) H5Oclose(d);
    H5Fclose(file);
    return gr_seal_publish(NULL, tmp, path, "weights", "") == GR_OK ? path : NULL;
}

static void test_foreign(void)
{
    for (int which = 0; which <= 12; which++) {
        gr_h5      *f = NULL;
        float       x[4];
        const char *path = hostile(which);
        gr_status   st;

        CHECK(path, "setting up %d", which);
        st = gr_h5_open(&f, path, "weights");
        if (st == GR_OK) st = gr_h5_read(f, "x", GR_F32, 0, 4, x);
        CHECK(st == GR_ERR_INPUT, "hostile file %d: %s", which, gr_status_name(st));
        gr_h5_close(&f);
    }
}

static void test_bad_calls(void)
{
    const int64_t dim[] = {4}, minus[] = {-1}, huge[] = {INT64_MAX, INT64_MAX};
    const char   *path = in_dir("calls.h5");
    float         x[4] = {0};
    gr_h5        *f = NULL;

    static const char *const bad_name[] = {"", "a/b", ".", "@x"};
    for (size_t i = 0; i < sizeof bad_name / sizeof *bad_name; i++) {
        CHECK(gr_h5_create(&f, path, "weights") == GR_OK, "create");
        CHECK(gr_h5_write(f, bad_name[i], GR_F32, 1, dim, x) == GR_ERR_ARG, "name \"%s\"", bad_name[i]);
        CHECK(gr_h5_write(f, "good", GR_F32, 1, dim, x) == GR_ERR_ARG, "an error must be remembered");
        CHECK(gr_h5_commit(&f) == GR_ERR_ARG && !gr_exists(path), "commit after an error");
    }
    CHECK(gr_h5_create(&f, path, "weights") == GR_OK && gr_h5_write(f, "x", GR_F32, 1, minus, x) == GR_ERR_ARG,
          "negative dimension");
    gr_h5_close(&f);
    CHECK(gr_h5_create(&f, path, "weights") == GR_OK && gr_h5_write(f, "x", GR_F32, 2, huge, x) == GR_ERR_ARG,
          "overflow");
    gr_h5_close(&f);
    CHECK(gr_h5_create(&f, path, "weights") == GR_OK && gr_h5_write(f, "x", GR_F32, 1, dim, x) == GR_OK &&
              gr_h5_write(f, "x", GR_F32, 1, dim, x) == GR_ERR_IO,
          "one name twice");
    gr_h5_close(&f);
    CHECK(gr_h5_create(&f, path, "Weights!") == GR_OK && gr_h5_commit(&f) == GR_ERR_ARG && !gr_exists(path), "kind");
    CHECK(gr_h5_create(&f, in_dir("no/such/dir.h5"), "weights") == GR_ERR_IO && !f, "no directory");
}

/* A full disk, where a small file system of our own can be mounted. */
static void test_full_disk(void)
{
    const char   *small = in_dir("small"), *path = in_dir("small/x.h5");
    const int64_t dim[] = {1 << 20}, few[] = {1000};
    float        *x = NULL;
    gr_h5        *f = NULL;
    int64_t       left;
    char        **name = NULL;

    if (mkdir(small, 0700) || mount("tmpfs", small, "tmpfs", 0, "size=2m")) {
        fprintf(stdout, "full disk: skipped, tmpfs cannot be mounted\n");
        return;
    }
    CHECK(gr_alloc(&x, 1 << 20, sizeof *x, "data") == GR_OK, "memory");
    CHECK(gr_h5_create(&f, path, "weights") == GR_OK && gr_h5_write(f, "a", GR_F32, 1, few, x) == GR_OK, "create");
    CHECK(gr_h5_write(f, "x", GR_F32, 1, dim, x) == GR_ERR_IO, "4 MiB on a disk of 2 MiB");
    CHECK(gr_h5_write(f, "b", GR_F32, 1, few, x) == GR_ERR_IO, "HDF5 pretends that all is well again");
    CHECK(gr_h5_commit(&f) == GR_ERR_IO && !gr_exists(path), "commit");
    CHECK(gr_h5_create(&f, path, "weights") == GR_OK && gr_h5_reserve(f, "x", GR_F32, 1, dim) == GR_OK, "reserve");
    char       tmp[GR_PATH_MAX];
    gr_h5_slot slot;
    CHECK(gr_h5_share(NULL, &f, tmp, &slot, 1) == GR_ERR_IO && !f,
          "a shared file must report the full disk before data");
    CHECK(gr_list(small, &name, &left) == GR_OK && left == 0, "%lld files left behind", (long long)left);
    gr_names_free(&name, left);
    CHECK(gr_h5_create(&f, path, "weights") == GR_OK && gr_h5_write(f, "a", GR_F32, 1, few, x) == GR_OK &&
              gr_h5_commit(&f) == GR_OK,
          "a small file after the failures");
    gr_free(&x);
    CHECK(!umount(small), "umount");
}

int main(void)
{
    const char *base = getenv("GR_TEST_DIR");

    snprintf(dir, sizeof dir, "%s/graft-h5-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(dir)) return 1;
    test_round_trip();
    test_widen();
    test_same_bytes();
    test_foreign();
    test_bad_calls();
    test_full_disk();
    test_damage();
    if (!check_failed) CHECK(gr_remove_tree(dir) == GR_OK, "tidy up");
    return check_result();
}
