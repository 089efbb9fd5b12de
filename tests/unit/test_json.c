/* JSON from strangers: what is accepted, what is refused, and that the message names the place. */
/*TEST
np: 1
timeout: 20
*/
#include "tests/check.h"
#include "util/fs.h"
#include "util/json.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const refused[] = {
    "",
    " ",
    "{",
    "{}x",
    "{} {}",
    "{\"a\":1,\"a\":2}",
    "{\"a\":1,}",
    "[1,]",
    "{'a':1}",
    "\xEF\xBB\xBF{}",
    "{\"a\":NaN}",
    "{\"a\":Infinity}",
    "{\"a\":1e999}",
    "{\"a\":92233720368547758080}",
    "{\"a\":\"\xFF\"}",
    "{\"a\":\"\xC0\x80\"}",
    "{\"a\":\"\\ud800\"}",
    "{\"a\":\"\n\"}",
    "{\"a\":01}",
    "{\"a\":+1}",
    "// x\n{}",
    "{\"a\":\"\\u0000\"}",
    "{\"a\" 1}",
    "nul",
    "\"text\"",
};

static gr_status parse(const char *text, size_t n)
{
    json_t         *tree = NULL;
    const gr_status st = gr_json_parse(text, n, "test", &tree);

    CHECK((st == GR_OK) == (tree != NULL), "output set on failure, or not on success");
    json_decref(tree);
    return st;
}

static void test_depth(void)
{
    char text[3000];

    for (int depth = 1; depth <= 1000; depth += depth == 64 || depth < 3 ? 1 : 61) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        CHECK(parse(text, 2 * (size_t)depth) == (depth <= 64 ? GR_OK : GR_ERR_INPUT), "depth %d", depth);
    }
    static const char in_string[] =
        "{\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"{{{{{{{{{{{{{{{{{{{{\":1}";
    CHECK(parse(in_string, sizeof in_string - 1) == GR_OK, "brackets in a string are not depth");
}

static void test_members(void)
{
    static const char text[] = "{\"i\":-5,\"s\":\"x\",\"r\":1.5,\"big\":9223372036854775807,\"n\":null}";
    json_t           *t = NULL;
    int64_t           i = 0;
    double            r = 0;
    const char       *s = NULL;
    char             *dump = NULL;

    CHECK(gr_json_parse(text, sizeof text - 1, "test", &t) == GR_OK, "parse");
    CHECK(gr_json_get_int(t, "test", "i", -5, 5, &i) == GR_OK && i == -5, "int");
    CHECK(gr_json_get_int(t, "test", "big", 0, INT64_MAX, &i) == GR_OK && i == INT64_MAX, "big int");
    CHECK(gr_json_get_int(t, "test", "i", -4, 5, &i) == GR_ERR_INPUT && i == INT64_MAX, "int below its range");
    CHECK(gr_json_get_int(t, "test", "r", 0, 5, &i) == GR_ERR_INPUT, "real as int");
    CHECK(gr_json_get_int(t, "test", "none", 0, 5, &i) == GR_ERR_INPUT, "absent");
    CHECK(gr_json_get_str(t, "test", "s", &s) == GR_OK && !strcmp(s, "x"), "string");
    CHECK(gr_json_get_str(t, "test", "n", &s) == GR_ERR_INPUT, "null as string");
    CHECK(gr_json_get_num(t, "test", "r", &r) == GR_OK && r == 1.5, "number");
    CHECK(gr_json_get_num(t, "test", "i", &r) == GR_OK && r == -5, "int as number");
    CHECK(gr_json_get_num(t, "test", "s", &r) == GR_ERR_INPUT, "string as number");
    CHECK(gr_json_dump(t, 0, &dump) == GR_OK && !strcmp(dump, text), "dump: %s", dump);
    gr_free(&dump);
    CHECK(gr_json_dump(t, 2, &dump) == GR_OK && strstr(dump, "\n  \"s\": \"x\""), "indented");
    gr_free(&dump);
    json_decref(t);
}

int main(void)
{
    const char *base = getenv("GR_TEST_DIR");
    char        path[GR_PATH_MAX];
    json_t     *t = NULL;
    int         fd;

    snprintf(path, sizeof path, "%s/graft-json-XXXXXX", base ? base : "/tmp");
    fd = mkstemp(path);

    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        CHECK(parse(refused[i], strlen(refused[i])) == GR_ERR_INPUT, "accepted: %s", refused[i]);
    CHECK(parse("{\"a\":1}\0", 8) == GR_ERR_INPUT, "a NUL after the end");
    CHECK(parse(" {\"a\": [1, -2.5e3, true, null, \"\\u00e9\\ud83d\\ude00\"]} \n", 55) == GR_OK, "good JSON");
    test_depth();
    test_members();
    CHECK(fd >= 0 && gr_write_file(path, "{\"a\": 7}", 8) == GR_OK && gr_json_load(path, &t) == GR_OK, "load");
    CHECK(json_integer_value(json_object_get(t, "a")) == 7, "loaded");
    json_decref(t);
    t = NULL;
    CHECK(!truncate(path, (64 << 20) + 1) && gr_json_load(path, &t) == GR_ERR_INPUT && !t, "more than 64 MiB");
    close(fd);
    unlink(path);
    CHECK(gr_json_load(path, &t) == GR_ERR_INPUT, "missing file");
    return check_result();
}
