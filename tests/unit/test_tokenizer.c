/* Tokenizers give the ids of HuggingFace's (recorded: tests/golden), scanners equal the expressions they replace,
 * hostile files are refused, and no word is slow. */
/*TEST
np: 1
timeout: 120
*/
#include "data_pipeline/jsonl.h"
#include "data_pipeline/split.h"
#include "data_pipeline/stream.h"
#include "data_pipeline/tokenizer.h"
#include "data_pipeline/utf8.h"
#include "tests/check.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/rng.h"
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static char    dir[] = "/tmp/graft-tokenizer-XXXXXX";
static char    path[GR_PATH_MAX];
static json_t *cases;

static gr_status open_json(gr_tokenizer **t, const json_t *tree, bool scanners)
{
    gr_status st = GR_OK;
    char     *text = NULL;

    GR_TRY(gr_json_dump(tree, 0, &text));
    GR_TRY(gr_write_file(path, text, strlen(text)));
    GR_TRY(scanners ? gr_tokenizer_open(t, path) : gr_tokenizer_open_reference(t, path));
out:
    gr_free(&text);
    return st;
}

/* The base tokenizer with the top-level keys of `patch`. */
static json_t *patched(const json_t *patch)
{
    json_t *tree = json_deep_copy(json_object_get(cases, "base"));

    if (patch) json_object_update(tree, (json_t *)(uintptr_t)patch);
    return tree;
}

static bool same_ids(const gr_ids *ids, const json_t *expect)
{
    if (ids->n != (int64_t)json_array_size(expect)) return false;
    for (int64_t i = 0; i < ids->n; i++)
        if (ids->v[i] != json_integer_value(json_array_get(expect, (size_t)i))) return false;
    return true;
}

static bool same_text(const gr_bytes *b, const json_t *expect)
{
    return b->n == (int64_t)json_string_length(expect) &&
           !memcmp(b->v ? b->v : "", json_string_value(expect), (size_t)b->n);
}

/* ---- recorded cases ---------------------------------------------------------------------------------- */

static void test_variant(const json_t *variant, bool scanners)
{
    gr_tokenizer *t = NULL;
    const char   *name = json_string_value(json_object_get(variant, "name"));
    const json_t *texts = json_object_get(cases, "texts"), *special = json_object_get(variant, "special");
    json_t       *tree = patched(json_object_get(variant, "patch"));
    gr_ids        ids = {0};
    gr_bytes      text = {0};

    CHECK(open_json(&t, tree, scanners) == GR_OK, "%s: open", name);
    for (size_t i = 0; t && i < json_array_size(texts); i++) {
        const json_t *s = json_array_get(texts, i), *expect = json_array_get(json_object_get(variant, "ids"), i);
        const json_t *decoded = json_array_get(json_object_get(variant, "decoded"), i);
        const json_t *plain = json_array_get(json_object_get(variant, "plain"), i);
        const int64_t n = (int64_t)json_string_length(s);

        ids.n = text.n = 0;
        CHECK(gr_tokenizer_encode(t, json_string_value(s), n, false, &ids) == GR_OK && same_ids(&ids, expect),
              "%s: ids of text %zu", name, i);
        if (json_is_null(decoded)) decoded = s;
        if (json_is_null(plain)) plain = decoded;
        CHECK(gr_tokenizer_decode(t, ids.v, ids.n, false, &text) == GR_OK && same_text(&text, decoded),
              "%s: decoding of text %zu", name, i);
        text.n = 0;
        CHECK(gr_tokenizer_decode(t, ids.v, ids.n, true, &text) == GR_OK && same_text(&text, plain),
              "%s: decoding of text %zu without specials", name, i);
        ids.n = 0;
        if (json_is_array(special)) expect = json_array_get(special, i);
        CHECK(gr_tokenizer_encode(t, json_string_value(s), n, true, &ids) == GR_OK && same_ids(&ids, expect),
              "%s: ids of text %zu with specials", name, i);
    }
    gr_tokenizer_close(&t);
    gr_ids_close(&ids);
    gr_bytes_close(&text);
    json_decref(tree);
}

static void test_recorded(void)
{
    const json_t *list = json_object_get(cases, "variants");

    for (size_t i = 0; i < json_array_size(list); i++) {
        test_variant(json_array_get(list, i), true);
        if (i % 4 == 0) test_variant(json_array_get(list, i), false); /* qwen, prefix_only, o200k, ... */
    }
    CHECK(json_array_size(list) >= 17, "%zu variants recorded", json_array_size(list));
}

/* ---- scanners against expressions ---------------------------------------------------------------------- */

/* A code point of a kind that patterns distinguish. */
static uint32_t some_point(uint64_t i)
{
    static const uint32_t some[] = {'\'',  '\'', 's',  'S',    't',     'r',     'e',     'l',  'L',    'v',
                                    'D',   'm',  ' ',  ' ',    ' ',     '\n',    '\r',    '\t', '1',    '2',
                                    '9',   '.',  '-',  '_',    0x17F,   0xA0,    0x3000,  0x85, 0x180E, 0x301,
                                    0x660, 0xBD, 0xE9, 0x4E2D, 0x1F600, 0x31350, 0x10D40, 0x0,  0x200B, 0x2028};
    const float           u = gr_uniform(11, 0, i);

    if (u < 0.9F) return some[(int)(u / 0.9F * (float)(sizeof some / sizeof *some))];
    return (uint32_t)(gr_uniform(11, 1, i) * 0xD800);
}

static void test_scanners(void)
{
    static const char *const pattern[] = {GR_GPT2_PATTERN,
                                          "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                                          "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                                          "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
                                          "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"};
    gr_unicode              *u = NULL;

    CHECK(gr_unicode_open(&u) == GR_OK, "unicode");
    for (size_t k = 0; k < sizeof pattern / sizeof *pattern; k++) {
        gr_split *fast = NULL, *slow = NULL;
        int       bad = 0;

        CHECK(gr_split_open(&fast, u, pattern[k], "fast", true) == GR_OK, "fast");
        CHECK(gr_split_open(&slow, u, pattern[k], "slow", false) == GR_OK, "slow");
        for (uint64_t trial = 0; trial < 4000 && !bad; trial++) {
            char    text[256];
            int64_t n = 0;
            gr_cut  a, b;

            for (uint64_t i = 0; i < trial % 40; i++) n += gr_utf8_encode(some_point(trial * 64 + i), text + n);
            CHECK(gr_split_begin(fast, text, n, &a) == GR_OK && gr_split_begin(slow, text, n, &b) == GR_OK, "begin");
            do {
                CHECK(gr_split_next(fast, &a) == GR_OK && gr_split_next(slow, &b) == GR_OK, "next");
                bad = a.first != b.first || a.end != b.end;
            } while (!bad && a.end > a.first);
            CHECK(!bad, "pattern %zu, trial %d: [%d, %d) and [%d, %d)", k, (int)trial, (int)a.first, (int)a.end,
                  (int)b.first, (int)b.end);
        }
        gr_split_close(&fast);
        gr_split_close(&slow);
    }
    gr_unicode_close(&u);
}

/* ---- odd text -------------------------------------------------------------------------------------------- */

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void test_text(void)
{
    static const char *const invalid[] = {"\xFF",     "a\xC3", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                                          "\xE4\xB8", "ok\x80"};
    const int64_t            big = 1 << 20;
    gr_tokenizer            *t = NULL;
    json_t                  *tree = patched(NULL);
    char                    *text = NULL;
    gr_ids                   ids = {0};
    gr_bytes                 back = {0};
    double                   start;

    CHECK(open_json(&t, tree, true) == GR_OK, "open");
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++)
        CHECK(gr_tokenizer_encode(t, invalid[i], (int64_t)strlen(invalid[i]), false, &ids) == GR_ERR_INPUT,
              "invalid %zu", i);
    CHECK(gr_tokenizer_encode(t, "a\0b", 3, false, &ids) == GR_OK && ids.n == 3, "a NUL is a byte like any other");
    CHECK(gr_tokenizer_decode(t, ids.v, ids.n, false, &back) == GR_OK && back.n == 3 && !memcmp(back.v, "a\0b", 3),
          "and back");

    CHECK(gr_alloc(&text, (uint64_t)big, 1, "text") == GR_OK, "text");
    start = seconds();
    for (int kind = 0; kind < 4; kind++) { /* one word, one run of spaces, of punctuation, of three letters */
        for (int64_t i = 0; i < big; i++) text[i] = "a ="[kind % 3];
        for (int64_t i = 0; kind == 3 && i < big; i++) text[i] = (char)('a' + gr_uniform(3, 3, (uint64_t)i) * 3);
        ids.n = back.n = 0;
        CHECK(gr_tokenizer_encode(t, text, big, false, &ids) == GR_OK, "1 MiB word");
        CHECK(gr_tokenizer_decode(t, ids.v, ids.n, false, &back) == GR_OK && back.n == big &&
                  !memcmp(back.v, text, (size_t)big),
              "1 MiB word, back");
    }
    CHECK(seconds() - start < 20, "words of 1 MiB take %.1f s: something is quadratic", seconds() - start);

    CHECK(gr_tokenizer_find(t, "<|endoftext|>") == 640 && gr_tokenizer_special(t, 640), "end of text");
    CHECK(gr_tokenizer_find(t, "<|nothing|>") == -1 && !gr_tokenizer_special(t, 5), "no such token");
    CHECK(gr_tokenizer_vocab_size(t) == 642 && strlen(gr_tokenizer_digest(t)) == 16, "facts");
    ids.n = back.n = 0;
    CHECK(gr_ids_push(&ids, UINT32_MAX) == GR_OK && gr_tokenizer_decode(t, ids.v, 1, false, &back) == GR_OK &&
              back.n == 0,
          "an id without a token decodes to nothing");
    gr_tokenizer_close(&t);
    gr_free(&text);
    gr_ids_close(&ids);
    gr_bytes_close(&back);
    json_decref(tree);
}

/* The cache must not change results: a stream of many distinct words, twice, against fresh handles. */
static void test_cache(void)
{
    json_t       *tree = patched(NULL);
    gr_tokenizer *t = NULL;
    gr_ids        a = {0}, b = {0};
    gr_bytes      text = {0};

    CHECK(open_json(&t, tree, true) == GR_OK, "open");
    for (uint64_t i = 0; i < 400000; i++) {
        char      word[80];
        const int n =
            snprintf(word, sizeof word, " w%llx%.*s", (unsigned long long)(i * UINT64_C(0x9E3779B97F4A7C15) >> 40),
                     (int)(i % 60), "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghij");
        CHECK(gr_bytes_push(&text, word, n) == GR_OK, "push");
    }
    CHECK(gr_tokenizer_encode(t, text.v, text.n, false, &a) == GR_OK, "first");
    CHECK(gr_tokenizer_encode(t, text.v, text.n, false, &b) == GR_OK, "second");
    CHECK(a.n == b.n && !memcmp(a.v, b.v, (size_t)a.n * sizeof *a.v), "the second time gives other ids");
    text.n = 0;
    gr_tokenizer_close(&t);
    gr_ids_close(&a);
    gr_ids_close(&b);
    gr_bytes_close(&text);
    json_decref(tree);
}

/* Bytes without a token are counted each time, whatever the cache knows; those that carry text are demanded. */
static void test_lost(void)
{
    gr_tokenizer *t = NULL;
    gr_ids        ids = {0};
    json_t       *tree = NULL, *vocab;
    const json_t *variant;
    size_t        i;

    json_array_foreach(json_object_get(cases, "variants"), i,
                       variant) if (!strcmp(json_string_value(json_object_get(variant, "name")), "smollm")) tree =
        patched(json_object_get(variant, "patch"));
    CHECK(tree && open_json(&t, tree, true) == GR_OK, "open");
    for (int64_t round = 1; round <= 3; round++)
        CHECK(gr_tokenizer_encode(t, "-\x04-\x16 -\x04-\x16", 9, false, &ids) == GR_OK &&
                  gr_tokenizer_lost(t) == 4 * round,
              "%d lost in round %d", (int)gr_tokenizer_lost(t), (int)round);
    gr_tokenizer_close(&t);
    vocab = json_object_get(json_object_get(tree, "model"), "vocab");
    json_object_del(vocab, "\u0109"); /* a tab */
    CHECK(open_json(&t, tree, true) == GR_ERR_INPUT && !t, "no token for a tab");
    gr_ids_close(&ids);
    json_decref(tree);
}

/* ---- hostile files --------------------------------------------------------------------------------------- */

/* A patch in JSON; "model." patches go into the model. */
static void test_hostile(void)
{
    static const char *const patch[] = {
        "{\"model\": null}",
        "{\"model\": 3}",
        "{\"model\": {}}",
        "{\"model\": {\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}, \"merges\": []}}",
        "{\"model\": {\"type\": 1, \"vocab\": {\"a\": 0}, \"merges\": []}}",
        "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
        "{\"model\": {\"vocab\": {}, \"merges\": []}}",
        "{\"truncation\": {\"max_length\": 5}}",
        "{\"padding\": {}}",
        "{\"decoder\": null}",
        "{\"decoder\": {\"type\": \"WordPiece\"}}",
        "{\"normalizer\": {\"type\": \"NFKC\"}}",
        "{\"normalizer\": {\"type\": 5}}",
        "{\"normalizer\": []}",
        "{\"normalizer\": {\"type\": \"Sequence\"}}",
        "{\"pre_tokenizer\": null}",
        "{\"pre_tokenizer\": {\"type\": \"Whitespace\"}}",
        "{\"pre_tokenizer\": {\"type\": \"Digits\", \"individual_digits\": true}}",
        "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"use_regex\": 1}}",
        "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": []}}",
        "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"}, {\"type\": "
        "\"Digits\"}]}}",
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \" \"}, \"behavior\": \"Isolated\"}}",
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Removed\"}}",
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Isolated\", "
        "\"invert\": true}}",
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Isolated\"}}",
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\\\\\"}, \"behavior\": \"Isolated\"}}",
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\w+\"}, \"behavior\": \"Isolated\"}}",
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a[b]]\"}, \"behavior\": \"Isolated\"}}",
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\p{L}{1,3}+\"}, \"behavior\": "
        "\"Isolated\"}}",
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\p{Nonsense}\"}, \"behavior\": "
        "\"Isolated\"}}",
        "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?C1)a\"}, \"behavior\": \"Isolated\"}}",
        "{\"post_processor\": {\"type\": \"BertProcessing\"}}",
        "{\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}}",
        "{\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}]}}",
        "{\"post_processor\": {\"type\": \"TemplateProcessing\", \"special_tokens\": {\"x\": {\"ids\": [99999]}}, "
        "\"single\": "
        "[{\"SpecialToken\": {\"id\": \"x\"}}, {\"Sequence\": {\"id\": \"A\"}}]}}",
        "{\"added_tokens\": 7}",
        "{\"added_tokens\": [7]}",
        "{\"added_tokens\": [{\"id\": 640}]}",
        "{\"added_tokens\": [{\"id\": 640, \"content\": \"\"}]}",
        "{\"added_tokens\": [{\"id\": -1, \"content\": \"x<\"}]}",
        "{\"added_tokens\": [{\"id\": 99999999999, \"content\": \"x<\"}]}",
        "{\"added_tokens\": [{\"id\": 641, \"content\": \"x<\"}]}",
        "{\"added_tokens\": [{\"id\": 640, \"content\": \"x<\", \"special\": \"yes\"}]}",
        "{\"added_tokens\": [{\"id\": 640, \"content\": \"x<\"}, {\"id\": 641, \"content\": \"x<\"}]}",
    };
    static const char *const model[] = {
        "{\"vocab\": []}",
        "{\"vocab\": null}",
        "{\"merges\": null}",
        "{\"merges\": {}}",
        "{\"merges\": [5]}",
        "{\"merges\": [\"ab\"]}",
        "{\"merges\": [\"a b c\"]}",
        "{\"merges\": [[\"a\"]]}",
        "{\"merges\": [[\"a\", 1]]}",
        "{\"merges\": [[\"a\", \"nothing like it\"]]}",
        "{\"merges\": [[\"z\", \"\\u0120\"]]}",
        "{\"ignore_merges\": \"yes\"}",
        "{\"dropout\": 0.1}",
        "{\"unk_token\": \"<unk>\"}",
        "{\"byte_fallback\": true}",
        "{\"fuse_unk\": true}",
        "{\"continuing_subword_prefix\": \"##\"}",
        "{\"end_of_word_suffix\": \"</w>\"}",
    };
    static const char *const vocab[] = {"{\"a\": -1}",    "{\"a\": 99999999999}", "{\"a\": 16777216}", "{\"a\": 1.5}",
                                        "{\"a\": \"0\"}", "{\"a\": 1, \"b\": 1}", "{\"another\": 0}"};
    gr_tokenizer            *t = NULL;

    for (size_t i = 0; i < sizeof patch / sizeof *patch; i++) {
        json_t *p = json_loads(patch[i], 0, NULL), *tree = patched(p);
        CHECK(p && open_json(&t, tree, true) == GR_ERR_INPUT && !t, "accepted: %s", patch[i]);
        gr_tokenizer_close(&t);
        json_decref(tree);
        json_decref(p);
    }
    for (size_t i = 0; i < sizeof model / sizeof *model; i++) {
        json_t *p = json_loads(model[i], 0, NULL), *tree = patched(NULL);
        json_object_update(json_object_get(tree, "model"), p);
        CHECK(p && open_json(&t, tree, true) == GR_ERR_INPUT && !t, "accepted: model %s", model[i]);
        gr_tokenizer_close(&t);
        json_decref(tree);
        json_decref(p);
    }
    for (size_t i = 0; i < sizeof vocab / sizeof *vocab; i++) {
        json_t *p = json_loads(vocab[i], 0, NULL), *tree = patched(NULL);
        json_object_update(json_object_get(json_object_get(tree, "model"), "vocab"), p);
        CHECK(p && open_json(&t, tree, true) == GR_ERR_INPUT && !t, "accepted: vocab %s", vocab[i]);
        gr_tokenizer_close(&t);
        json_decref(tree);
        json_decref(p);
    }
}

/* Every prefix of a small file, and bit flips: an error or a working tokenizer, never a crash. */
static void test_damaged(void)
{
    json_t       *tree = patched(NULL);
    char         *text = NULL;
    gr_tokenizer *t = NULL;
    gr_ids        ids = {0};

    CHECK(gr_json_dump(tree, 0, &text) == GR_OK, "dump");
    for (uint64_t i = 0; i < 60; i++) {
        const size_t n = strlen(text), at = (size_t)(gr_uniform(5, 0, i) * (float)n);

        if (i % 3 == 0) {
            CHECK(gr_write_file(path, text, at) == GR_OK, "write");
            CHECK(gr_tokenizer_open(&t, path) == GR_ERR_INPUT, "opened when cut short at %zu", at);
        } else {
            text[at] = (char)(text[at] ^ (1 << i % 8));
            CHECK(gr_write_file(path, text, n) == GR_OK, "write");
            if (gr_tokenizer_open(&t, path) == GR_OK) (void)gr_tokenizer_encode(t, "The license, 2.0", 16, true, &ids);
            text[at] = (char)(text[at] ^ (1 << i % 8));
        }
        gr_tokenizer_close(&t);
    }
    CHECK(gr_tokenizer_open(&t, "/nowhere/tokenizer.json") == GR_ERR_INPUT, "missing");
    CHECK(gr_tokenizer_open(&t, dir) == GR_ERR_INPUT, "a directory");
    gr_ids_close(&ids);
    gr_free(&text);
    json_decref(tree);
}

/* ---- JSON lines ------------------------------------------------------------------------------------------- */

static void test_jsonl(void)
{
    static const struct {
        const char *line, *text; /* NULL: refused */
    } c[] = {
        {"{\"text\": \"a\"}", "a"},
        {" {\"x\": [1, -2.5e+3, true, null, {\"text\": \"no\"}, []], \"text\": \"\\u00e9\\ud83d\\ude00\\n\\\"\\/\", "
         "\"y\": {}} \r",
         "\xC3\xA9\xF0\x9F\x98\x80\n\"/"},
        {"{\"text\": \"first\", \"text\": \"last\"}", "last"},
        {"{\"\": 0, \"te\\u0078t\": \"escaped key\"}", "escaped key"},
        {"{\"text\": \"\"}", ""},
        {"{}", NULL},
        {"[]", NULL},
        {"", NULL},
        {"{\"text\": 5}", NULL},
        {"{\"text\": \"a}", NULL},
        {"{\"text\": \"a\"", NULL},
        {"{\"text\": \"a\",}", NULL},
        {"{\"text\": \"a\"} x", NULL},
        {"{\"text\": \"\t\"}", NULL},
        {"{\"text\": \"\\x\"}", NULL},
        {"{\"text\": \"\\u12\"}", NULL},
        {"{\"text\": \"\\ud800\"}", NULL},
        {"{\"text\": \"\\udc00\\ud800\"}", NULL},
        {"{\"a\": 01, \"text\": \"b\"}", NULL},
        {"{\"a\": 1., \"text\": \"b\"}", NULL},
        {"{\"a\": -, \"text\": \"b\"}", NULL},
        {"{\"a\": [1 2], \"text\": \"b\"}", NULL},
        {"{\"a\": [1,], \"text\": \"b\"}", NULL},
        {"{\"a\": {\"b\" 1}, \"text\": \"b\"}", NULL},
        {"{\"a\": {\"b\": 1], \"text\": \"b\"}", NULL},
        {"{\"a\": nul, \"text\": \"b\"}", NULL},
        {"{a: 1, \"text\": \"b\"}", NULL},
    };
    gr_bytes       text = {0};
    gr_jsonl_error error;
    int64_t        replaced = 0;
    char           deep[400];
    const char    *surrogate = "{\"text\": \"\\u0000\\ud800!\"}";

    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        const gr_status st =
            gr_jsonl_string(c[i].line, (int64_t)strlen(c[i].line), "text", false, &text, &replaced, &error);

        if (!c[i].text)
            CHECK(st == GR_ERR_INPUT && error.what && text.n == 0, "accepted: %s", c[i].line);
        else
            CHECK(st == GR_OK && text.n == (int64_t)strlen(c[i].text) &&
                      !memcmp(text.v ? text.v : "", c[i].text, (size_t)text.n),
                  "%s: %.*s", c[i].line, (int)text.n, text.v);
        text.n = 0;
    }
    CHECK(gr_jsonl_string(surrogate, (int64_t)strlen(surrogate), "text", true, &text, &replaced, &error) == GR_OK &&
              text.n == 5 && replaced == 1 && !memcmp(text.v, "\0\xEF\xBF\xBD!", 5),
          "NUL, and a lone surrogate replaced");
    text.n = 0;
    for (int depth = 64; depth <= 65; depth++) {
        const int n = snprintf(deep, sizeof deep, "{\"a\": %.*s1%.*s, \"text\": \"x\"}", depth,
                               "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", depth,
                               "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]");
        CHECK((gr_jsonl_string(deep, n, "text", false, &text, &replaced, &error) == GR_OK) == (depth == 64), "depth %d",
              depth);
        text.n = 0;
    }
    gr_bytes_close(&text);
}

static void test_stream(void)
{
    json_t       *tree = patched(NULL);
    gr_tokenizer *t = NULL;
    FILE         *in = tmpfile(), *to = tmpfile();
    char          line[64] = "";

    CHECK(open_json(&t, tree, true) == GR_OK && in && to, "open");
    fputs("{\"text\": \"b\"}\n\n{\"text\": \"\"}\n{\"text\": \"<|endoftext|>\"}", in);
    rewind(in);
    CHECK(gr_tokenize_encode_stream(t, in, to) == GR_OK, "stream");
    rewind(to);
    CHECK(fgets(line, sizeof line, to) && !strcmp(line, "{\"ids\": [65]}\n"), "first: %s", line);
    CHECK(fgets(line, sizeof line, to) && !strcmp(line, "{\"ids\": []}\n"), "second: %s", line);
    CHECK(fgets(line, sizeof line, to) && !strcmp(line, "{\"ids\": [640]}\n"), "third: %s", line);
    CHECK(!fgets(line, sizeof line, to), "more");
    rewind(in);
    fputs("{\"text\": 7777}\n", in);
    rewind(in);
    CHECK(gr_tokenize_encode_stream(t, in, to) == GR_ERR_INPUT, "not a string");
    fclose(in);
    fclose(to);
    gr_tokenizer_close(&t);
    json_decref(tree);
}

static void test_replace(void)
{
    static const struct {
        const char *bytes, *text;
        int         n;
    } c[] = {/* Unicode 16.0, table 3-8 and its neighbours; the counts are Rust's from_utf8_lossy */
             {"a\xF1\x80\x80\xE1\x80\xC2"
              "b\x80"
              "c\x80\xBF"
              "d",
              "a???b?c??d", 6},
             {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
              "A",
              "????????A", 8},
             {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
              "A",
              "????????A", 8},
             {"\xF4\x91\x92\x93\xFF"
              "A\x80\xBF"
              "B",
              "?????A??B", 7},
             {"ok \xC3\xA9", "ok \xC3\xA9", 0}};
    gr_bytes b = {0};

    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        int64_t n = 0, at = 0;

        b.n = 0;
        CHECK(gr_utf8_replace(c[i].bytes, (int64_t)strlen(c[i].bytes), &b, &n) == GR_OK && n == c[i].n, "case %zu: %d",
              i, (int)n);
        for (const char *p = c[i].text; *p; p++) {
            const bool mark = *p == '?';
            CHECK(at + (mark ? 3 : 1) <= b.n && !memcmp(b.v + at, mark ? "\xEF\xBF\xBD" : p, mark ? 3 : 1),
                  "case %zu at %d", i, (int)at);
            at += mark ? 3 : 1;
        }
        CHECK(at == b.n, "case %zu", i);
    }
    gr_bytes_close(&b);
}

int main(void)
{
    char name[GR_PATH_MAX];

    CHECK(mkdtemp(dir), "mkdtemp");
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    CHECK(gr_json_load("tests/golden/tokenizer_cases.json", &cases) == GR_OK, "recorded cases");
    if (cases) {
        test_recorded();
        test_text();
        test_cache();
        test_lost();
        test_hostile();
        test_damaged();
        test_stream();
    }
    test_scanners();
    test_jsonl();
    test_replace();
    json_decref(cases);
    snprintf(name, sizeof name, "%s", path);
    unlink(name);
    rmdir(dir);
    return check_result();
}
