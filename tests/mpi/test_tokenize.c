/* Any number of ranks makes the same corpus, byte for byte, as one rank does; and when something fails on one rank, all
 * end with the same status and no index. */
/*TEST
np: 1 2 3 4
timeout: 60
*/
#include "comm/comm.h"
#include "data_pipeline/tokenize.h"
#include "data_pipeline/tokenizer.h"
#include "store/shards.h"
#include "tests/check.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/rng.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static gr_comm *world;
static char     dir[GR_PATH_MAX] = "/tmp/graft-tokenize-XXXXXX";

/* A path below the test's directory; good until the eighth call after it. */
static const char *in_dir(const char *name)
{
    static char path[8][GR_PATH_MAX];
    static int  turn;

    turn = (turn + 1) % 8;
    CHECK(gr_path(path[turn], "%s/%s", dir, name) == GR_OK, "path");
    return path[turn];
}

static void put(const char *name, const char *data, uint64_t n)
{
    CHECK(gr_write_file(in_dir(name), data, n) == GR_OK, "write %s", name);
}

/* ---- the input: rank 0 writes it --------------------------------------------------------------------- */

static void write_tokenizer(void)
{
    json_t *cases = NULL;
    char   *text = NULL;

    CHECK(gr_json_load("tests/golden/tokenizer_cases.json", &cases) == GR_OK, "cases");
    CHECK(gr_json_dump(json_object_get(cases, "base"), 0, &text) == GR_OK, "dump");
    put("tokenizer.json", text, strlen(text));
    gr_free(&text);
    json_decref(cases);
}

/* Prose with lines of 0 to 300 bytes, blank lines of several kinds, CRLF, NUL, long lines, and no newline at the end.
 */
static void write_prose(const char *name, uint64_t seed, int64_t lines)
{
    static const char *const word[] = {"license",          "the",          "You", "naïve", "2.0", "work,",
                                       "\xF0\x9F\x98\x80", "<|endoftext|>"};
    gr_bytes                 b = {0};

    for (int64_t i = 0; i < lines; i++) {
        const int kind = (int)(gr_uniform(seed, 1, (uint64_t)i) * 12),
                  n = kind > 8 ? 0 : kind * 6 + (i % 97 == 0 ? 400 : 0);
        for (int k = 0; k < n; k++) {
            const char *w = word[(int)(gr_uniform(seed, 2, (uint64_t)(i * 1000 + k)) * 8)];
            CHECK(gr_bytes_push(&b, w, (int64_t)strlen(w)) == GR_OK &&
                      gr_bytes_push(&b, k % 50 == 7 ? "\0" : " ", 1) == GR_OK,
                  "push");
        }
        if (kind == 9) CHECK(gr_bytes_push(&b, " \t ", 3) == GR_OK, "push");
        if (kind % 4 == 1) CHECK(gr_bytes_push(&b, "\r", 1) == GR_OK, "push");
        if (i + 1 < lines) CHECK(gr_bytes_push(&b, "\n", 1) == GR_OK, "push");
    }
    put(name, b.v, (uint64_t)b.n);
    gr_bytes_close(&b);
}

static void write_input(void)
{
    const char *const end = "{\"text\": \"\"}\n{\"text\": \"last\"}";
    char              line[256];
    gr_bytes          b = {0};

    CHECK(gr_mkdirs(in_dir("text/sub")) == GR_OK && gr_mkdirs(in_dir("jsonl")) == GR_OK &&
              gr_mkdirs(in_dir("bad")) == GR_OK,
          "mkdirs");
    write_tokenizer();
    write_prose("text/a.txt", 1, 900);
    write_prose("text/b.txt", 2, 3);
    put("text/empty.txt", "", 0);
    put("text/.hidden", "\xFF", 1);
    write_prose("text/sub/c.txt", 3, 500);
    put("text/sub/zz.txt", "\n", 1);
    for (int i = 0; i < 700; i++) {
        const int n =
            snprintf(line, sizeof line, "{\"id\": %d, \"text\": \"Line %d\\n\\u00e9 %.*s\"}%s", i, i * i, i % 90,
                     "the license and the work and the work and the license and so on and on and so forth and",
                     i % 5 ? "\n" : "\r\n\n");
        CHECK(gr_bytes_push(&b, line, n) == GR_OK, "push");
    }
    CHECK(gr_bytes_push(&b, end, (int64_t)strlen(end)) == GR_OK, "push");
    put("jsonl/a.jsonl", b.v, (uint64_t)b.n);
    put("jsonl/b.jsonl", end, strlen(end));
    gr_bytes_close(&b);
    put("bad/a.txt", "fine\n", 5);
    put("bad/b.txt", "fine\nbut \xC3( not\n", 15);
}

/* ---- runs ---------------------------------------------------------------------------------------------- */

static gr_tokenize_options options(const char *const *inputs, int64_t n_input, gr_document document,
                                   const char *out_dir)
{
    static char tokenizer[GR_PATH_MAX];

    snprintf(tokenizer, sizeof tokenizer, "%s", in_dir("tokenizer.json"));
    return (gr_tokenize_options){inputs,  n_input,    {document, "text", 12000, false}, tokenizer, "<|endoftext|>",
                                 out_dir, "test: 1\n"};
}

static bool same_file(const char *a, const char *b)
{
    char    *x = NULL, *y = NULL;
    uint64_t n = 0, m = 0;
    bool     same;

    same = gr_read_file(a, 1 << 24, &x, &n) == GR_OK && gr_read_file(b, 1 << 24, &y, &m) == GR_OK && n == m &&
           !memcmp(x, y, n);
    gr_free(&x);
    gr_free(&y);
    return same;
}

static void same_tree(const char *a, const char *b)
{
    char  **x = NULL, **y = NULL;
    char    p[GR_PATH_MAX], q[GR_PATH_MAX];
    int64_t n = 0, m = 0;

    CHECK(gr_list(a, &x, &n) == GR_OK && gr_list(b, &y, &m) == GR_OK && n == m, "%d and %d files", (int)n, (int)m);
    for (int64_t i = 0; i < n && i < m; i++) {
        CHECK(!strcmp(x[i], y[i]), "%s and %s", x[i], y[i]);
        CHECK(gr_path(p, "%s/%s", a, x[i]) == GR_OK && gr_path(q, "%s/%s", b, x[i]) == GR_OK && same_file(p, q),
              "%s differs", x[i]);
    }
    gr_names_free(&x, n);
    gr_names_free(&y, m);
}

/* The corpus as one string: what unit sizes and rank counts must not change. */
static void stream_of(const char *out_dir, gr_ids *ids, int64_t *n_doc)
{
    gr_shards *s = NULL;

    CHECK(gr_shards_open(&s, world, out_dir) == GR_OK, "open %s", out_dir);
    if (!s) return;
    ids->n = 0;
    CHECK(gr_ids_reserve(ids, gr_shards_tokens(s)) == GR_OK, "reserve");
    CHECK(gr_shards_read(s, 0, gr_shards_tokens(s), ids->v, NULL, NULL) == GR_OK, "read");
    ids->n = gr_shards_tokens(s);
    *n_doc = gr_shards_documents(s);
    gr_shards_close(&s);
}

/* All ranks against one rank, then other unit sizes against that. */
static void test_document(const char *input, gr_document document)
{
    static const int64_t unit[] = {5000, 1 << 20}; /* few shards: each costs three fsyncs */
    char                 in[GR_PATH_MAX], many[GR_PATH_MAX], alone[GR_PATH_MAX];
    const char          *inputs[] = {in};
    gr_tokenize_report   a = {0}, b = {0};
    gr_tokenize_options  o;
    gr_ids               x = {0}, y = {0};
    int64_t              n_doc = 0, m_doc = 0;

    snprintf(in, sizeof in, "%s", in_dir(input));
    snprintf(many, sizeof many, "%s", in_dir("many"));
    snprintf(alone, sizeof alone, "%s", in_dir("alone"));
    o = options(inputs, 1, document, many);
    CHECK(gr_tokenize_corpus(world, &o, &a) == GR_OK, "%s: tokenize", input);
    if (gr_comm_rank(world) == 0) {
        o.out_dir = alone;
        CHECK(gr_tokenize_corpus(NULL, &o, &b) == GR_OK, "%s: alone", input);
        CHECK(!memcmp(&a, &b, sizeof a), "%s: the reports differ", input);
        same_tree(many, alone);
    }
    CHECK(a.n_shard > 3 && a.n_kept == 0 && a.n_replaced == 0, "%s: %d shards", input, (int)a.n_shard);
    stream_of(many, &x, &n_doc);
    CHECK(x.n == a.n_token && n_doc == a.n_doc, "%s: report", input);
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++) {
        char other[GR_PATH_MAX];

        snprintf(other, sizeof other, "%s", in_dir("other"));
        o.out_dir = other;
        o.reading.unit_bytes = unit[i];
        CHECK(gr_tokenize_corpus(world, &o, &b) == GR_OK, "unit of %d", (int)unit[i]);
        CHECK(b.n_empty == a.n_empty && b.n_doc == a.n_doc, "%s, unit of %d: %d documents and %d empty, not %d and %d",
              input, (int)unit[i], (int)b.n_doc, (int)b.n_empty, (int)a.n_doc, (int)a.n_empty);
        stream_of(other, &y, &m_doc);
        CHECK(x.n == y.n && n_doc == m_doc && !memcmp(x.v, y.v, (size_t)x.n * sizeof *x.v),
              "unit of %d: another stream", (int)unit[i]);
        gr_barrier(world);
        if (gr_comm_rank(world) == 0) CHECK(gr_remove_tree(other) == GR_OK, "remove");
        gr_barrier(world);
    }
    gr_barrier(world);
    if (gr_comm_rank(world) == 0) CHECK(gr_remove_tree(many) == GR_OK && gr_remove_tree(alone) == GR_OK, "remove");
    gr_barrier(world);
    gr_ids_close(&x);
    gr_ids_close(&y);
}

/* [local] Every unit size from one byte on divides a small text into the same documents. */
static void test_small(void)
{
    static const struct {
        gr_document document;
        const char *text, *expect; /* documents, each followed by | */
    } c[] = {
        {GR_DOCUMENT_LINE, "a\nbb\r\n\n\rx\nlast", "a|bb|\rx|last|"},
        {GR_DOCUMENT_LINE, "\n\n", ""},
        {GR_DOCUMENT_PARAGRAPH, "\n \na\nb\r\n\r\n\t\nc d\n\n\ne\r\nf\r\n", "a\nb|c d|e\r\nf|"},
        {GR_DOCUMENT_PARAGRAPH, "one\ntwo\nthree", "one\ntwo\nthree|"},
        {GR_DOCUMENT_PARAGRAPH, "   \n  x\n     ", "  x|"},
        {GR_DOCUMENT_JSONL, "{\"text\":\"a\"}\n\n {\"text\":\"b\\n\"}\r\n{\"text\":\"\"}\n{\"text\":\"c\"}",
         "a|b\n|c|"},
        {GR_DOCUMENT_FILE, "all\nof it\n", "all\nof it\n|"},
    };
    char         path[GR_PATH_MAX];
    const char  *inputs[] = {path, path};
    gr_files     f = {0};
    gr_documents d = {0};

    snprintf(path, sizeof path, "%s", in_dir("small.txt"));
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        put("small.txt", c[i].text, strlen(c[i].text));
        CHECK(gr_files_open(&f, inputs, 2) == GR_OK && f.n == 2, "files");
        for (int64_t unit = 1; unit < 90; unit++) {
            const gr_reading how = {c[i].document, "text", unit, false};
            char             got[512] = "", want[512];

            for (int64_t u = 0; u < gr_files_units(&f, unit); u++) {
                CHECK(gr_documents_read(&d, &f, &how, u) == GR_OK, "read");
                for (int64_t k = 0, at = 0; k < d.n; at = d.end[k++]) {
                    strncat(got, d.text.v + at, (size_t)(d.end[k] - at));
                    strncat(got, "|", 2);
                }
            }
            snprintf(want, sizeof want, "%s%s", c[i].expect, c[i].expect);
            CHECK(!strcmp(got, want), "case %zu, unit of %d: %s", i, (int)unit, got);
        }
        gr_files_close(&f);
    }
    gr_documents_close(&d);
}

/* ---- failures -------------------------------------------------------------------------------------------- */

static void expect_failure(const gr_tokenize_options *o, gr_status expect, const char *what)
{
    gr_tokenize_report report;
    int64_t            code[2] = {gr_tokenize_corpus(world, o, &report), 0};
    char               index[GR_PATH_MAX];

    code[1] = -code[0];
    gr_max_i64(world, code, 2);
    CHECK(code[0] == expect && code[1] == -(int64_t)expect, "%s: statuses from %d to %d, expected %d", what,
          (int)-code[1], (int)code[0], (int)expect);
    CHECK(gr_path(index, "%s/index.json", o->out_dir) == GR_OK && !gr_exists(index), "%s: there is an index", what);
    gr_barrier(world);
}

static void test_failures(void)
{
    char        bad[GR_PATH_MAX], text[GR_PATH_MAX], glob[GR_PATH_MAX], empty[GR_PATH_MAX], out_dir[GR_PATH_MAX];
    char        json[GR_PATH_MAX], fault[32];
    const char *one[] = {bad}, *good[] = {text}, *none[] = {glob}, *nothing[] = {empty}, *lines[] = {json};
    gr_tokenize_options o;
    gr_tokenize_report  report = {0};

    snprintf(bad, sizeof bad, "%s", in_dir("bad"));
    snprintf(text, sizeof text, "%s", in_dir("text/*.txt"));
    snprintf(glob, sizeof glob, "%s", in_dir("text/*.none"));
    snprintf(empty, sizeof empty, "%s", in_dir("text/empty.txt"));
    snprintf(json, sizeof json, "%s", in_dir("jsonl/broken.jsonl"));
    snprintf(out_dir, sizeof out_dir, "%s", in_dir("failed"));
    if (gr_comm_rank(world) == 0) put("jsonl/broken.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b}\n", 28);
    gr_barrier(world);

    o = options(one, 1, GR_DOCUMENT_LINE, out_dir);
    o.reading.unit_bytes = 5; /* the bad line is in the second of four units */
    expect_failure(&o, GR_ERR_INPUT, "bad UTF-8");
    o.reading.replace_invalid = true;
    CHECK(gr_tokenize_corpus(world, &o, &report) == GR_OK && report.n_replaced == 1 && report.n_kept > 0 &&
              report.n_doc == 3,
          "replaced %d, kept %d", (int)report.n_replaced, (int)report.n_kept);
    o = options(none, 1, GR_DOCUMENT_LINE, in_dir("failed2"));
    expect_failure(&o, GR_ERR_INPUT, "no such file");
    o = options(nothing, 1, GR_DOCUMENT_FILE, out_dir);
    o.out_dir = in_dir("failed3");
    expect_failure(&o, GR_ERR_INPUT, "empty corpus");
    o = options(lines, 1, GR_DOCUMENT_JSONL, in_dir("failed4"));
    expect_failure(&o, GR_ERR_INPUT, "broken JSON");
    o.reading.field = "body";
    expect_failure(&o, GR_ERR_INPUT, "no such field");
    o = options(good, 1, GR_DOCUMENT_LINE, in_dir("failed5"));
    o.eos = "<|nothing|>";
    expect_failure(&o, GR_ERR_CONFIG, "unknown eos");
    o.eos = "<|endoftext|>";
    o.tokenizer = bad;
    expect_failure(&o, GR_ERR_INPUT, "no tokenizer");

    /* A rank fails on the way; the next run keeps what is done, and repairs what is damaged. */
    o = options(good, 1, GR_DOCUMENT_LINE, in_dir("again"));
    for (int r = 0; r < gr_comm_size(world); r++) {
        snprintf(fault, sizeof fault, "tokenize:%d", r);
        setenv("GR_FAULT", fault, 1);
        expect_failure(&o, GR_ERR_IO, fault);
    }
    setenv("GR_FAULT", "tokenize_publish:0", 1);
    expect_failure(&o, GR_ERR_IO, "publish");
    unsetenv("GR_FAULT");
    if (gr_comm_rank(world) == 0) CHECK(truncate(in_dir("again/shard-00002.h5"), 100) == 0, "truncate");
    gr_barrier(world);
    CHECK(gr_tokenize_corpus(world, &o, &report) == GR_OK && report.n_kept == report.n_shard - 1, "kept %d of %d",
          (int)report.n_kept, (int)report.n_shard);
    CHECK(gr_tokenize_corpus(world, &o, &report) == GR_OK && report.n_kept == report.n_shard, "all kept");
    o.eos = NULL;
    CHECK(gr_tokenize_corpus(world, &o, &report) == GR_OK && report.n_kept == 0, "another eos, other shards");
}

int main(int argc, char **argv)
{
    CHECK(gr_comm_init(&world, &argc, &argv) == GR_OK, "init");
    if (gr_comm_rank(world) == 0) {
        CHECK(mkdtemp(dir), "mkdtemp");
        write_input();
        test_small();
    }
    gr_bcast(world, dir, sizeof dir, 0);
    test_document("text", GR_DOCUMENT_LINE);
    test_document("text", GR_DOCUMENT_PARAGRAPH);
    test_document("text", GR_DOCUMENT_FILE);
    test_document("jsonl", GR_DOCUMENT_JSONL);
    test_failures();
    gr_barrier(world);
    if (gr_comm_rank(world) == 0) CHECK(gr_remove_tree(dir) == GR_OK, "clean up");
    gr_comm_finalize(&world);
    return check_result();
}
