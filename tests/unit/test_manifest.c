/* A manifest is believed only when all of it fits together: no bit may change, no row may be missing or be there twice.
 */
/*TEST
np: 1
timeout: 20
*/
#include "store/json_seal.h"
#include "store/manifest.h"
#include "tests/check.h"
#include <stdio.h>
#include <string.h>

#define SHARDS                                                                                                         \
    "\"shards\":[{\"file\":\"shard-00000-of-00002.h5\",\"bytes\":4096,\"crc32c\":\"00c0ffee\"},"                       \
    "{\"file\":\"shard-00001-of-00002.h5\",\"bytes\":8192,\"crc32c\":\"deadbeef\"}]"
#define PIECES "[0,0,3,4072,\"00000001\"],[1,3,4,512,\"00000002\"]"
#define TENSORS                                                                                                        \
    "\"tensors\":[{\"name\":\"a\",\"dtype\":\"f32\",\"shape\":[7,2],\"pieces\":[" PIECES "]},"                         \
    "{\"name\":\"b\",\"dtype\":\"i64\",\"shape\":[],\"pieces\":[[1,0,1,8184,\"00000003\"]]}]"
#define HEAD "{\"format\":2,\"step\":12,\"attempt\":\"1-2-3\",\"world\":2,"
#define GOOD HEAD SHARDS "," TENSORS ",\"meta\":{\"lr\":0.1}}"

/* Seal `json` properly and parse it. */
static gr_status judge(const char *json, gr_manifest **m)
{
    json_t   *tree = NULL;
    char     *text = NULL;
    uint64_t  n = 0;
    gr_status st;

    *m = NULL;
    CHECK(gr_json_parse(json, strlen(json), "test", &tree) == GR_OK && gr_json_seal(tree, &text, &n) == GR_OK,
          "the test's own JSON: %s", json);
    st = text ? gr_manifest_parse(m, text, n, "test") : GR_ERR_ARG;
    CHECK((st == GR_OK) == (*m != NULL), "outputs are set on success only");
    gr_free(&text);
    json_decref(tree);
    return st;
}

static void good(void)
{
    gr_manifest              *m = NULL;
    const gr_manifest_tensor *t;

    CHECK(judge(GOOD, &m) == GR_OK, "a good manifest");
    if (!m) return;
    CHECK(m->step == 12 && m->world == 2 && m->n_shard == 2 && m->n_tensor == 2 && m->n_piece == 3, "counts");
    CHECK(m->shard[1].bytes == 8192 - 512 && m->shard[1].crc == 0xdeadbeef &&
              !strcmp(m->shard[1].id, "00001e00deadbeef"),
          "shard");
    t = gr_manifest_find(m, "a");
    CHECK(t && t->rank == 2 && t->dim[0] == 7 && t->n_piece == 2 && m->piece[t->piece + 1].first == 3 &&
              m->piece[t->piece].offset == 4072 && m->piece[t->piece + 1].bytes == 32,
          "tensor a");
    t = gr_manifest_find(m, "b");
    CHECK(t && t->rank == 0 && t->dim[0] == 1, "a scalar");
    CHECK(!gr_manifest_find(m, "c") && !gr_manifest_find(m, ""), "absent");
    CHECK(!strcmp(m->meta, "{\"lr\":0.1}") || strstr(m->meta, "0.1"), "meta is %s", m->meta);
    gr_manifest_close(&m);
}

/* GOOD with `from` replaced by `to`, sealed again. */
static void refuse(const char *from, const char *to)
{
    char         json[4096];
    const char  *at = strstr(GOOD, from);
    gr_manifest *m = NULL;

    CHECK(at, "the test looks for %s", from);
    if (!at) return;
    snprintf(json, sizeof json, "%.*s%s%s", (int)(at - GOOD), GOOD, to, at + strlen(from));
    CHECK(judge(json, &m) == GR_ERR_INPUT, "accepted: %s instead of %s", to, from);
    gr_manifest_close(&m);
}

static void wrong(void)
{
    refuse(PIECES, "[0,0,3,512,\"00000001\"]");                          /* rows missing at the end */
    refuse(PIECES, "[1,3,4,512,\"00000002\"]");                          /* at the start            */
    refuse(PIECES, "[0,0,3,512,\"00000001\"],[1,4,3,512,\"00000002\"]"); /* in the middle           */
    refuse(PIECES, "[0,0,4,512,\"00000001\"],[1,3,4,512,\"00000002\"]"); /* there twice             */
    refuse(PIECES, "[0,0,3,512,\"00000001\"],[1,3,5,512,\"00000002\"]"); /* past the end            */
    refuse(PIECES, "[1,3,4,512,\"00000002\"],[0,0,3,512,\"00000001\"]"); /* out of order            */
    refuse(PIECES, "[0,0,3,512,\"00000001\"],[2,3,4,512,\"00000002\"]"); /* no such shard           */
    refuse(PIECES, "[0,0,3,512,\"00000001\"],[-1,3,4,512,\"00000002\"]");
    refuse(PIECES, "[0,0,0,512,\"00000001\"],[0,0,7,512,\"00000001\"]"); /* empty                   */
    refuse(PIECES, "[0,0,-3,512,\"00000001\"],[1,-3,10,512,\"00000002\"]");
    refuse(PIECES, "[0,0,9223372036854775807,512,\"00000001\"]");
    refuse(PIECES, "[0,0,7.0,512,\"00000001\"]");
    refuse(PIECES, "[0,0,7,512,\"1\"]");
    refuse(PIECES, "[0,0,7,512,\"0000000A\"]");
    refuse(PIECES, "[0,0,7,512,1]");
    refuse(PIECES, "[0,0,7,\"00000001\"]");     /* as it was in format 1 */
    refuse(PIECES, "[0,0,7,511,\"00000001\"]"); /* in the seal           */
    refuse(PIECES, "[0,0,7,0,\"00000001\"]");
    refuse(PIECES, "[0,0,7,-512,\"00000001\"]");
    refuse(PIECES, "[0,0,7,4041,\"00000001\"]"); /* past the end */
    refuse(PIECES, "[0,0,7,9223372036854775807,\"00000001\"]");
    refuse(PIECES, "[0,0,7,512.0,\"00000001\"]");
    refuse(PIECES, "[0,0,7,\"512\",\"00000001\"]");
    refuse("4072", "4073");
    refuse("8184", "8185");
    refuse(PIECES, "[0,0,7,512,\"00000001\",0]");
    refuse(PIECES, "7");
    refuse(PIECES, "");
    refuse("[7,2]", "[7,0]");
    refuse("[7,2]", "[7,-2]");
    refuse("[7,2]", "[7,9223372036854775807,4]");
    refuse("[7,2]", "[7,2,1,1,1]");
    refuse("[7,2]", "[7,\"2\"]");
    refuse("[7,2]", "{}");
    refuse("\"f32\"", "\"f31\"");
    refuse("\"f32\"", "7");
    refuse("\"name\":\"b\"", "\"name\":\"a\"");
    refuse("\"name\":\"b\"", "\"name\":\"A\"");
    refuse("\"name\":\"b\"", "\"name\":\"b/c\"");
    refuse("\"name\":\"b\"", "\"name\":\"b@1\"");
    refuse("\"name\":\"b\"", "\"name\":\"\"");
    refuse("\"name\":\"b\"", "\"more\":0,\"name\":\"b\"");
    refuse("shard-00001-of-00002.h5", "shard-00000-of-00002.h5");
    refuse("shard-00001-of-00002.h5", "../shard-00001-of-00002.h5");
    refuse("shard-00001-of-00002.h5", "shard-00001-of-00003.h5");
    refuse("8192", "8191"); /* cuts off b's only piece */
    refuse("8192", "512");
    refuse("8192", "-1");
    refuse("deadbeef", "deadbee");
    refuse("deadbeef", "DEADBEEF");
    refuse("deadbeef", "deadbeef0");
    refuse("\"format\":2", "\"format\":1");
    refuse("\"format\":2", "\"format\":3");
    refuse("\"step\":12", "\"step\":-1");
    refuse("\"step\":12", "\"step\":1.5");
    refuse("\"world\":2", "\"world\":0");
    refuse("\"world\":2", "\"world\":2,\"extra\":0");
    refuse("\"attempt\":\"1-2-3\"", "\"attempt\":7");
    refuse("{\"lr\":0.1}", "[]");
    refuse(",\"meta\":{\"lr\":0.1}", "");
    refuse(TENSORS, "\"tensors\":{}");
    refuse(SHARDS, "\"shards\":[]");
}

/* Every bit of a sealed text, every truncation, anything appended. */
static void every_bit(void)
{
    json_t      *tree = NULL;
    char        *text = NULL;
    uint64_t     n = 0;
    gr_manifest *m = NULL;

    CHECK(gr_json_parse(GOOD, strlen(GOOD), "test", &tree) == GR_OK && gr_json_seal(tree, &text, &n) == GR_OK, "seal");
    for (uint64_t i = 0; i < n && text; i++) {
        for (int bit = 0; bit < 8; bit++) {
            text[i] = (char)(text[i] ^ 1 << bit);
            CHECK(gr_manifest_parse(&m, text, n, "test") == GR_ERR_INPUT && !m, "bit %d of byte %d flipped", bit,
                  (int)i);
            text[i] = (char)(text[i] ^ 1 << bit);
        }
        CHECK(gr_manifest_parse(&m, text, i, "test") == GR_ERR_INPUT && !m, "cut to %d bytes", (int)i);
    }
    CHECK(gr_manifest_parse(&m, text, n + 1, "test") == GR_ERR_INPUT && !m, "one more byte");
    CHECK(gr_manifest_parse(&m, text, n, "test") == GR_OK && m, "untouched");
    gr_manifest_close(&m);
    gr_free(&text);
    json_decref(tree);
}

/* Written for people, sealed all the same: it reads back, and no bit may change. */
static void written(void)
{
    const char *dir = getenv("GR_TEST_DIR");
    char        path[GR_PATH_MAX], *text = NULL;
    uint64_t    n = 0;
    json_t     *tree = json_pack("{ss s[ii]}", "a", "b", "list", 1, 2), *back = NULL;

    CHECK(dir && gr_path(path, "%s/written.json", dir) == GR_OK, "run me through tests/run.sh");
    CHECK(gr_json_write(tree, path) == GR_OK && gr_read_file(path, 1 << 20, &text, &n) == GR_OK, "write");
    CHECK(text && strstr(text, "{\n  \"a\": \"b\",\n"), "not indented: %s", text);
    CHECK(gr_json_unseal(text, n, "test", &back) == GR_OK && json_equal(tree, back), "read back");
    json_decref(back);
    for (uint64_t i = 0; i < 8 * n; i++) {
        text[i / 8] = (char)(text[i / 8] ^ 1 << i % 8);
        CHECK(gr_json_unseal(text, n, "test", &back) == GR_ERR_INPUT, "bit %d flipped", (int)i);
        text[i / 8] = (char)(text[i / 8] ^ 1 << i % 8);
    }
    gr_free(&text);
    json_decref(tree);
}

/* What could not be read again is not written. */
static void too_long(void)
{
    char    *value = NULL, *text = NULL;
    json_t  *tree = NULL;
    uint64_t n = 0;

    if (gr_alloc(&value, GR_JSON_SEAL_LIMIT + 1, 1, "a long string") != GR_OK) return;
    memset(value, 'x', GR_JSON_SEAL_LIMIT);
    tree = json_pack("{ss}", "x", value);
    CHECK(tree && gr_json_seal(tree, &text, &n) == GR_ERR_ARG && !text, "sealed %d bytes", (int)n);
    json_decref(tree);
    gr_free(&value);
}

static void names(void)
{
    char s[GR_SHARD_NAME], p[GR_PATH_MAX];

    gr_shard_name(s, 3, 17);
    CHECK(!strcmp(s, "shard-00003-of-00017.h5"), "%s", s);
    CHECK(gr_piece_name(p, "x", 7, 0, 7) == GR_OK && !strcmp(p, "x"), "%s", p);
    CHECK(gr_piece_name(p, "x", 7, 3, 4) == GR_OK && !strcmp(p, "x@3"), "%s", p);
}

int main(void)
{
    good();
    wrong();
    every_bit();
    written();
    too_long();
    names();
    return check_result();
}
