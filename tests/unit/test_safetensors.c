/* safetensors: good files are read, hostile headers are refused with a message and without a crash. */
/*TEST
np: 1
timeout: 30
*/
#include "store/safetensors.h"
#include "tests/check.h"
#include "util/fs.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[GR_PATH_MAX];

static const char *in_dir(const char *name)
{
    static char path[8][GR_PATH_MAX];
    static int  turn;

    turn = (turn + 1) % 8;
    CHECK(gr_path(path[turn], "%s/%s", dir, name) == GR_OK, "path");
    return path[turn];
}

/* A file of header text and n bytes of data 0, 1, 2, ...; `claim` >= 0 replaces the length of the header. */
static const char *make(const char *name, const char *header, size_t n_header, int64_t claim, size_t n)
{
    static char bytes[1 << 18];
    uint64_t    length = claim >= 0 ? (uint64_t)claim : n_header;

    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, n_header);
    for (size_t i = 0; i < n; i++) bytes[8 + n_header + i] = (char)i;
    CHECK(gr_write_file(in_dir(name), bytes, 8 + n_header + n) == GR_OK, "setting up %s", name);
    return in_dir(name);
}

#define T(dtype, shape, begin, end)                                                                                    \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static const struct {
    const char *what, *header;
    int64_t     claim;
    size_t      n_data;
} hostile[] = {
    {"no JSON", "hello", -1, 0},
    {"an array", "[]", -1, 0},
    {"header before {", " {}", -1, 0},
    {"bytes after the JSON", "{}x", -1, 0},
    {"NUL after the JSON", "{}\0", 3, 0},
    {"header longer than the file", "{}", 3, 0},
    {"header of 2^63 bytes", "{}", INT64_MAX, 0},
    {"header of 65 MiB", "{}", 65 << 20, 0},
    {"header of 1 byte", "{}", 1, 0},
    {"header of 0 bytes", "{}", 0, 0},
    {"data nobody owns", "{}", -1, 4},
    {"tensor is a number", "{\"a\":1}", -1, 0},
    {"tensor is empty", "{\"a\":{}}", -1, 0},
    {"no dtype", "{\"a\":{\"shape\":[],\"data_offsets\":[0,4]}}", -1, 4},
    {"dtype is a number", "{\"a\":{\"dtype\":32,\"shape\":[],\"data_offsets\":[0,4]}}", -1, 4},
    {"unknown dtype", "{\"a\":" T("F33", "[]", 0, 4) "}", -1, 4},
    {"unknown key", "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"x\":1}}", -1, 4},
    {"shape is a string", "{\"a\":" T("F32", "\"1\"", 0, 4) "}", -1, 4},
    {"negative size", "{\"a\":" T("F32", "[-1]", 0, 4) "}", -1, 4},
    {"two negative sizes", "{\"a\":" T("F32", "[-1,-1]", 0, 4) "}", -1, 4},
    {"real size", "{\"a\":" T("F32", "[1.0]", 0, 4) "}", -1, 4},
    {"shape that overflows to 4", "{\"a\":" T("F32", "[4611686018427387905,4611686018427387905]", 0, 4) "}", -1, 4},
    {"shape that overflows to 0", "{\"a\":" T("F32", "[4294967296,4294967296]", 0, 0) "}", -1, 0},
    {"size above int64", "{\"a\":" T("F32", "[18446744073709551617]", 0, 4) "}", -1, 4},
    {"shape smaller than its bytes", "{\"a\":" T("F32", "[1]", 0, 8) "}", -1, 8},
    {"shape larger than its bytes", "{\"a\":" T("F32", "[3]", 0, 8) "}", -1, 8},
    {"half a byte", "{\"a\":" T("F4", "[3]", 0, 1) "}", -1, 1},
    {"one offset", "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4]}}", -1, 4},
    {"three offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4,4]}}", -1, 4},
    {"real offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0.0,4.0]}}", -1, 4},
    {"negative offset", "{\"a\":" T("F32", "[2]", -4, 4) "}", -1, 4},
    {"end before begin", "{\"a\":" T("F32", "[1]", 4, 0) "}", -1, 4},
    {"end beyond the file", "{\"a\":" T("F32", "[2]", 0, 8) "}", -1, 4},
    {"end at 2^62", "{\"a\":" T("U8", "[4611686018427387904]", 0, 4611686018427387904) "}", -1, 4},
    {"gap at the start", "{\"a\":" T("F32", "[1]", 4, 8) "}", -1, 8},
    {"gap in the middle", "{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 8, 12) "}", -1, 12},
    {"gap at the end", "{\"a\":" T("F32", "[1]", 0, 4) "}", -1, 5},
    {"overlap", "{\"a\":" T("F32", "[2]", 0, 8) ",\"b\":" T("F32", "[2]", 4, 12) "}", -1, 12},
    {"the same bytes twice", "{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 0, 4) "}", -1, 4},
    {"the same name twice", "{\"a\":" T("F32", "[1]", 0, 4) ",\"a\":" T("F32", "[1]", 4, 8) "}", -1, 8},
    {"empty name", "{\"\":" T("F32", "[1]", 0, 4) "}", -1, 4},
    {"line feed in a name", "{\"a\\nb\":" T("F32", "[1]", 0, 4) "}", -1, 4},
    {"NUL in a name", "{\"a\\u0000\":" T("F32", "[1]", 0, 4) "}", -1, 4},
    {"name not UTF-8", "{\"a\xFF\":" T("F32", "[1]", 0, 4) "}", -1, 4},
    {"metadata is a list", "{\"__metadata__\":[]}", -1, 0},
    {"metadata holds a number", "{\"__metadata__\":{\"format\":1}}", -1, 0},
    {"deep nesting", "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", -1, 0},
};

static void test_hostile(void)
{
    static char header[4096];
    const int   keep = dup(STDERR_FILENO);

    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        gr_st      *s = NULL;
        char       *said = NULL;
        uint64_t    n = 0;
        const char *path = make("hostile", hostile[i].header, hostile[i].claim == 3 ? 3 : strlen(hostile[i].header),
                                hostile[i].claim, hostile[i].n_data);
        if (!strcmp(hostile[i].what, "header longer than the file")) CHECK(!truncate(path, 10), "setting up");
        fflush(stderr);
        CHECK(freopen(in_dir("said"), "w", stderr), "setting up");
        const gr_status st = gr_st_open(&s, path);
        fflush(stderr);
        dup2(keep, STDERR_FILENO);
        CHECK(st == GR_ERR_INPUT && !s, "%s: %s", hostile[i].what, gr_status_name(st));
        CHECK(gr_read_file(in_dir("said"), 1 << 20, &said, &n) == GR_OK && said && strstr(said, "/hostile") && n > 40,
              "%s: said \"%s\"", hostile[i].what, said);
        CHECK(said && strchr(said, '\n') == said + n - 1, "%s: not one message: %s", hostile[i].what, said);
        gr_free(&said);
        gr_st_close(&s);
    }
    close(keep);

    for (int extra = 0; extra < 2; extra++) { /* a name of 512 bytes is the longest */
        gr_st *s = NULL;
        char   name[514] = "";
        memset(name, 'n', (size_t)(512 + extra));
        snprintf(header, sizeof header, "{\"%s\":" T("F32", "[1]", 0, 4) "}", name);
        CHECK(gr_st_open(&s, make("name", header, strlen(header), -1, 4)) == (extra ? GR_ERR_INPUT : GR_OK),
              "name of %d bytes", 512 + extra);
        gr_st_close(&s);
    }
    gr_st *s = NULL;
    CHECK(gr_write_file(in_dir("short"), "1234567", 7) == GR_OK && gr_st_open(&s, in_dir("short")) == GR_ERR_INPUT,
          "7 bytes");
    CHECK(gr_write_file(in_dir("short"), "", 0) == GR_OK && gr_st_open(&s, in_dir("short")) == GR_ERR_INPUT, "0 bytes");
    CHECK(gr_st_open(&s, in_dir("none")) == GR_ERR_INPUT && gr_st_open(&s, dir) == GR_ERR_INPUT && !s,
          "missing, directory");
}

/* Each byte of a good header replaced by each of some others, and each truncation: never a crash. */
static void test_fuzz(void)
{
    static const char good[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"a\":" T("F32", "[1,2]", 0, 8) ",\"b\":" T("BF16", "[2]", 8, 12) "}";
    static const char other[] = "\0{}[]\",:0-9eE\\ \xFF";
    const int         keep = dup(STDERR_FILENO);
    FILE             *log = freopen(in_dir("log"), "w", stderr);
    int               accepted = 0;
    float             x[2];

    CHECK(log, "setting up");
    for (size_t i = 0; i < sizeof good - 1; i++) {
        for (size_t k = 0; k < sizeof other; k++) {
            char   text[sizeof good];
            gr_st *s = NULL;
            memcpy(text, good, sizeof good);
            text[i] = other[k];
            const gr_status st = gr_st_open(&s, make("fuzz", text, sizeof good - 1, -1, 12));
            CHECK((st == GR_OK) == (s != NULL), "byte %zu", i);
            accepted += st == GR_OK;
            if (s && gr_st_has(s, "a")) CHECK(gr_st_read_f32(s, "a", 0, 1, x) != GR_ERR_IO, "byte %zu", i);
            gr_st_close(&s);
        }
    }
    for (off_t n = (off_t)sizeof good + 8 + 12 - 2; n >= 0; n--) {
        gr_st *s = NULL;
        CHECK(!truncate(make("fuzz", good, sizeof good - 1, -1, 12), n) &&
                  gr_st_open(&s, in_dir("fuzz")) == GR_ERR_INPUT,
              "cut to %ld", (long)n);
        gr_st_close(&s);
    }
    fflush(stderr);
    dup2(keep, STDERR_FILENO);
    close(keep);
    CHECK(!check_failed, "more in %s/log", dir);
    CHECK(accepted > 0 && accepted < 400, "%d changes accepted (other names are fine)", accepted);
}

static void test_read(void)
{
    static const char header[] = "{\"z\":" T("I64", "[1]", 0, 8) ",\"a\":" T("BF16", "[3,2]", 8, 20) ",\"h\":" T(
        "F16", "[]", 20,
        22) ",\"e\":" T("F32", "[0,5]", 22,
                        22) ",\"f\":" T("F32", "[2]", 22,
                                        30) ",\"five\":" T("F32", "[1,1,1,1,1]", 30,
                                                           34) ",\"q\":" T("F8_E4M3", "[2]", 34,
                                                                           36) ",\"m\":" T("BOOL", "[1]", 36,
                                                                                           37) ",\"four\":" T("F4",
                                                                                                              "[4]", 37,
                                                                                                              39) "}  "
                                                                                                                  " ";
    static const char *const unreadable[] = {"z", "five", "q", "m", "four", "absent"};
    gr_st                   *s = NULL;
    gr_st_info               t;
    float                    x[6], want;
    uint16_t                 raw[6];

    CHECK(gr_st_open(&s, make("good", header, sizeof header - 1, -1, 39)) == GR_OK, "open");
    if (!s) return;
    CHECK(gr_st_count(s) == 9 && !strcmp(gr_st_name(s, 0), "a") && !strcmp(gr_st_name(s, 8), "z"), "names");
    CHECK(gr_st_has(s, "z") && !gr_st_has(s, "__metadata__"), "has");
    CHECK(gr_st_find(s, "a", &t) == GR_OK && t.dtype == GR_BF16 && t.rank == 2 && t.dim[0] == 3 && t.dim[1] == 2 &&
              t.dim[2] == 1 && t.bytes == 12 && t.offset == 8 + sizeof header - 1 + 8,
          "find");
    CHECK(gr_st_read(s, "a", 1, 2, raw) == GR_OK && raw[0] == 0x0D0C && raw[3] == 0x1312, "raw rows");
    CHECK(gr_st_read_f32(s, "a", 0, 3, x) == GR_OK, "bf16");
    for (int i = 0; i < 6; i++) {
        const uint32_t bits = (uint32_t)(8 + 2 * i) << 16 | (uint32_t)(9 + 2 * i) << 24;
        memcpy(&want, &bits, 4);
        CHECK(x[i] == want, "bf16 value %d: %g, expected %g", i, x[i], want);
    }
    CHECK(gr_st_read_f32(s, "h", 0, 1, x) == GR_OK && x[0] == ldexpf(1024 + 0x114, 5 - 25), "f16 scalar: %g", x[0]);
    CHECK(gr_st_find(s, "e", &t) == GR_OK && t.bytes == 0 && gr_st_read(s, "e", 0, 0, x) == GR_OK, "empty tensor");
    CHECK(gr_st_read_f32(s, "f", 0, 2, x) == GR_OK, "f32");
    CHECK(gr_st_read(s, "a", 2, 2, raw) == GR_ERR_ARG && gr_st_read(s, "a", -1, 1, raw) == GR_ERR_ARG &&
              gr_st_read(s, "a", INT64_MAX, INT64_MAX, raw) == GR_ERR_ARG,
          "rows outside");
    for (size_t i = 0; i < sizeof unreadable / sizeof *unreadable; i++)
        CHECK(gr_st_find(s, unreadable[i], &t) == GR_ERR_INPUT &&
                  gr_st_read_f32(s, unreadable[i], 0, 1, x) == GR_ERR_INPUT,
              "%s", unreadable[i]);
    gr_st_close(&s);
}

static gr_status open_index(const char *json)
{
    gr_st    *s = NULL;
    gr_status st;

    CHECK(gr_write_file(in_dir("model/model.safetensors.index.json"), json, strlen(json)) == GR_OK, "setting up");
    st = gr_st_dir_open(&s, in_dir("model"));
    CHECK((st == GR_OK) == (s != NULL), "output");
    if (s) CHECK(gr_st_count(s) == 3 && gr_st_has(s, "a") && gr_st_has(s, "c"), "tensors");
    gr_st_close(&s);
    return st;
}

static void test_directory(void)
{
    static const char one[] = "{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 4, 8) "}",
                      two[] = "{\"c\":" T("F32", "[1]", 0, 4) "}";
    static const char        c_x[] = "{\"c\":" T("F32", "[1]", 0, 4) ",\"x\":" T("F32", "[1]", 4, 8) "}";
    static const char        d_x[] = "{\"d\":" T("F32", "[1]", 0, 4) ",\"x\":" T("F32", "[1]", 4, 8) "}";
    static const char *const refused[] = {
        "[]",
        "{}",
        "{\"weight_map\":[]}",
        "{\"weight_map\":{}}",
        "{\"weight_map\":{\"a\":1}}",
        "{\"weight_map\":{\"a\":\"..\"}}",
        "{\"weight_map\":{\"a\":\"../model/1.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"/etc/passwd\"}}",
        "{\"weight_map\":{\"a\":\"\"}}",
        "{\"weight_map\":{\"a\":\"1 .safetensors\"}}",
        "{\"weight_map\":{\"a\":\"none.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"2.safetensors\"}}",                         /* in the other file */
        "{\"weight_map\":{\"a\":\"1.safetensors\",\"d\":\"1.safetensors\"}}", /* in none           */
        "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"3.safetensors\"}}", /* 3 has another a   */
        "{\"weight_map\":{\"c\":\"2.safetensors\",\"d\":\"4.safetensors\"}}", /* both have an x    */
    };
    gr_st *s = NULL;

    CHECK(gr_mkdirs(in_dir("model")) == GR_OK && gr_st_dir_open(&s, in_dir("model")) == GR_ERR_INPUT && !s,
          "empty directory");
    make("model/1.safetensors", one, sizeof one - 1, -1, 8);
    make("model/2.safetensors", two, sizeof two - 1, -1, 4);
    make("model/3.safetensors", one, sizeof one - 1, -1, 8);
    CHECK(open_index("{\"metadata\":{\"total_size\":12},\"weight_map\":{\"a\":\"1.safetensors\",\"c\":\"2."
                     "safetensors\",\"b\":\"1.safetensors\"}}") == GR_OK,
          "index");
    make("model/2.safetensors", c_x, sizeof c_x - 1, -1, 8);
    make("model/4.safetensors", d_x, sizeof d_x - 1, -1, 8);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        CHECK(open_index(refused[i]) == GR_ERR_INPUT, "index accepted: %s", refused[i]);
    make("model/model.safetensors", two, sizeof two - 1, -1, 4);
    CHECK(gr_st_dir_open(&s, in_dir("model")) == GR_OK && gr_st_count(s) == 1,
          "model.safetensors comes before the index");
    gr_st_close(&s);
    CHECK(gr_st_dir_open(&s, in_dir("none")) == GR_ERR_INPUT, "no directory");
}

static void test_write(void)
{
    const gr_st_spec good[] = {
        {"b", GR_BF16, 1, {3}}, {"w\"\xC3\xA9", GR_F32, 2, {2, 2}}, {"a", GR_BF16, 0, {0}}, {"none", GR_F32, 1, {0}}};
    const gr_st_spec twice[] = {{"b", GR_BF16, 1, {3}}, {"b", GR_F32, 1, {1}}};
    const gr_st_spec bad[] = {{"", GR_F32, 1, {1}},        {"__metadata__", GR_F32, 1, {1}},
                              {"x", GR_F32, 1, {-1}},      {"x", GR_F32, 2, {INT64_MAX, 2}},
                              {"x", GR_F32, 5, {1}},       {"\xFF", GR_F32, 1, {1}},
                              {"x", GR_U8, 1, {INT64_MAX}}};
    const uint16_t   half[] = {1, 2, 3};
    const float      w[] = {1, 2, 3, 4};
    gr_st_plan      *p = NULL;
    gr_st           *s = NULL;
    gr_st_info       t;
    char             tmp[GR_PATH_MAX];
    char            *text = NULL;
    uint64_t         n = 0;
    float            x[4];
    const char      *path = in_dir("written.safetensors");

    CHECK(gr_st_plan_open(&p, good, 4) == GR_OK, "plan");
    if (!p) return;
    CHECK(gr_st_start(NULL, p, path, tmp) == GR_OK && !gr_exists(path), "start");
    CHECK(gr_st_put(p, tmp, "b", 0, half, 6) == GR_OK && gr_st_put(p, tmp, "a", 0, half + 1, 2) == GR_OK &&
              gr_st_put(p, tmp, "none", 0, NULL, 0) == GR_OK,
          "put");
    CHECK(gr_st_put(p, tmp, "w\"\xC3\xA9", 8, w + 2, 8) == GR_OK && gr_st_put(p, tmp, "w\"\xC3\xA9", 0, w, 8) == GR_OK,
          "put in two pieces");
    CHECK(gr_st_put(p, tmp, "b", 5, half, 2) == GR_ERR_ARG && gr_st_put(p, tmp, "c", 0, half, 2) == GR_ERR_ARG &&
              gr_st_put(p, tmp, "b", UINT64_MAX, half, 2) == GR_ERR_ARG,
          "put outside");
    CHECK(gr_st_commit(NULL, p, tmp, path) == GR_OK && !gr_exists(tmp), "commit");
    CHECK(gr_read_file(path, 1 << 20, &text, &n) == GR_OK && n == gr_st_plan_bytes(p) && text[0] % 8 == 0, "size");
    static const char begin[] = "{\"__metadata__\":{\"format\":\"pt\"},\"none\":" T(
        "F32", "[0]", 0, 0) ",\"w\\\"\xC3\xA9\":" T("F32", "[2,2]", 0, 16);
    CHECK(text && !memcmp(text + 8, begin, sizeof begin - 1), "header: %.200s", text + 8);
    gr_free(&text);
    CHECK(gr_st_open(&s, path) == GR_OK && gr_st_read_f32(s, "w\"\xC3\xA9", 0, 2, x) == GR_OK &&
              !memcmp(x, w, sizeof w),
          "read back");
    CHECK(s && gr_st_find(s, "a", &t) == GR_OK && t.rank == 0 && t.offset % 2 == 0 &&
              gr_st_read(s, "a", 0, 1, x) == GR_OK && !memcmp(x, half + 1, 2),
          "scalar");
    gr_st_close(&s);

    CHECK(gr_st_start(NULL, p, path, tmp) == GR_OK, "start again");
    CHECK(!truncate(tmp, 10) && gr_st_commit(NULL, p, tmp, path) == GR_ERR_IO && !gr_exists(tmp) && gr_exists(path),
          "cut short: the old file stays");
    CHECK(gr_st_start(NULL, p, in_dir("none/x"), tmp) == GR_ERR_IO, "no directory");
    gr_st_plan_close(&p);
    CHECK(gr_st_plan_open(&p, twice, 2) == GR_ERR_ARG && !p, "a name twice");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(gr_st_plan_open(&p, bad + i, 1) == GR_ERR_ARG && !p, "bad spec %zu", i);
    CHECK(gr_st_plan_open(&p, NULL, 0) == GR_OK, "no tensors");
    gr_st_plan_close(&p);
}

int main(void)
{
    const char *base = getenv("GR_TEST_DIR");

    snprintf(dir, sizeof dir, "%s/graft-st-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(dir)) return 1;
    test_read();
    test_directory();
    test_write();
    test_hostile();
    test_fuzz();
    if (!check_failed) CHECK(gr_remove_tree(dir) == GR_OK, "tidy up");
    return check_result();
}
