/* The same content is the same, wherever it lies; any other is not, but for bytes between the pieces of a large file.
 */
/*TEST
np: 1
timeout: 20
*/
#include "product/identity.h"
#include "tests/check.h"
#include "util/fs.h"
#include <stdlib.h>
#include <string.h>

enum { LARGE = 5 << 20 };

static char root[GR_PATH_MAX], bytes[LARGE];

static const char *in(const char *name)
{
    static char path[4][GR_PATH_MAX];
    static int  turn;

    turn = (turn + 1) % 4;
    CHECK(gr_path(path[turn], "%s/%s", root, name) == GR_OK, "path");
    return path[turn];
}

static gr_identity of(const char *name)
{
    gr_identity id = {"?"};

    CHECK(gr_identify(&id, in(name)) == GR_OK, "%s", name);
    return id;
}

static void put(const char *name, const char *data, uint64_t n)
{
    CHECK(gr_write_file(in(name), data, n) == GR_OK, "write %s", name);
}

#define SAME(a, b) (!strcmp((a).hex, (b).hex))

static void files(void)
{
    const uint64_t    sizes[] = {0, 1, 4 << 20, LARGE};
    static const char nothing[] = "";

    CHECK(SAME(of("absent"), (gr_identity){""}), "nothing has no identity");
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 31 >> 3);
    for (int k = 0; k < 4; k++) {
        const uint64_t n = sizes[k];
        gr_identity    first;

        put("a", n ? bytes : nothing, n);
        put("sub/b", n ? bytes : nothing, n);
        first = of("a");
        CHECK(strlen(first.hex) == 16 && SAME(first, of("sub/b")), "%d bytes, elsewhere", (int)n);
        for (int end = 0; end < 2 && n; end++) {
            bytes[end ? n - 1 : 0] ^= 1;
            put("a", bytes, n);
            bytes[end ? n - 1 : 0] ^= 1;
            CHECK(!SAME(first, of("a")), "%d bytes, another at the %s", (int)n, end ? "end" : "start");
        }
        if (n == LARGE) continue;
        put("a", bytes, n + 1);
        CHECK(!SAME(first, of("a")), "%d bytes, one more", (int)n);
    }
}

static void directories(void)
{
    gr_identity model, list, again;
    char        pattern[GR_PATH_MAX], *path[] = {pattern};

    put("hf/config.json", "{}", 2);
    put("hf/model.safetensors", "12345678", 8);
    model = of("hf");
    put("hf/README.md", "hello", 5);
    CHECK(SAME(model, of("hf")), "what makes no model does not count");
    put("hf/tokenizer.json", "{}", 2);
    CHECK(!SAME(model, of("hf")), "a tokenizer does");
    put("ckpt/step-00000001/manifest.json", "one", 3);
    model = of("ckpt");
    CHECK(SAME(model, of("ckpt/step-00000001")), "the newest checkpoint");
    put("ckpt/step-00000002/manifest.json", "two", 3);
    CHECK(!SAME(model, of("ckpt")), "a newer one");
    put("broken/index.json", "{\"content\":\"0123456789abcdef\"}", 30);
    CHECK(gr_identify(&model, in("broken")) == GR_ERR_INPUT, "an index without its checksum");

    put("text/1", "one", 3);
    put("text/2", "two", 3);
    CHECK(gr_path(pattern, "%s/text", root) == GR_OK, "pattern");
    CHECK(gr_identify_input(&list, &(gr_input_key){"tokenize.inputs", {path, 1}, true}) == GR_OK,
          "a directory of text");
    CHECK(gr_path(pattern, "%s/text/*", root) == GR_OK, "pattern");
    CHECK(gr_identify_input(&again, &(gr_input_key){"tokenize.inputs", {path, 1}, true}) == GR_OK && SAME(list, again),
          "the same files by a pattern");
    put("text/2", "owt", 3);
    CHECK(gr_identify_input(&again, &(gr_input_key){"tokenize.inputs", {path, 1}, true}) == GR_OK && !SAME(list, again),
          "one of them changed");
    CHECK(gr_path(pattern, "%s/nothing*", root) == GR_OK, "pattern");
    CHECK(gr_identify_input(&again, &(gr_input_key){"tokenize.inputs", {path, 1}, true}) == GR_OK && !*again.hex,
          "gone");
}

int main(void)
{
    const char *scratch = getenv("GR_TEST_DIR");

    CHECK(gr_path(root, "%s/identity", scratch ? scratch : ".") == GR_OK && gr_mkdirs(in("sub")) == GR_OK &&
              gr_mkdirs(in("hf")) == GR_OK && gr_mkdirs(in("text")) == GR_OK && gr_mkdirs(in("broken")) == GR_OK,
          "directories");
    CHECK(gr_mkdirs(in("ckpt/step-00000001")) == GR_OK && gr_mkdirs(in("ckpt/step-00000002")) == GR_OK, "directories");
    files();
    directories();
    CHECK(gr_remove_tree(root) == GR_OK, "clean up");
    return check_result();
}
