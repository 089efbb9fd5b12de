/* A corpus of shards: what is written is read back from anywhere, and what is damaged or inconsistent is refused. */
/*TEST
np: 1
timeout: 60
*/
#include "comm/comm.h"
#include "store/shards.h"
#include "tests/check.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_SHARD = 40, MAX_TOKENS = 64 }; /* more shards than a reader keeps open */

static char            dir[] = "/tmp/graft-shards-XXXXXX";
static gr_comm        *world;
static const gr_corpus corpus = {1000, "0123456789abcdef", 7};
static uint32_t        token[N_SHARD * MAX_TOKENS]; /* the stream */
static uint8_t         mask[N_SHARD * MAX_TOKENS], start[N_SHARD * MAX_TOKENS];
static int64_t         n_token, n_doc;
static gr_shard_info   info[N_SHARD];

static const char *in_dir(const char *name)
{
    static char path[GR_PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

/* Shard i: i mod 9 documents of 1 to 7 tokens; every ninth shard is empty. */
static void write_corpus(void)
{
    n_token = n_doc = 0;
    for (int64_t i = 0; i < N_SHARD; i++) {
        int64_t  offset[16] = {0}, n = 0;
        gr_shard s = {token + n_token, mask + n_token, offset, 0, i % 9, "feed"};

        for (int64_t d = 0; d < s.n_doc; d++) {
            start[n_token + n] = 1;
            for (int64_t k = 0; k <= (i + d) % 7; k++, n++) {
                token[n_token + n] = (uint32_t)((i * 37 + n * 11) % 1000);
                mask[n_token + n] = (uint8_t)((i + n) % 2);
            }
            offset[d + 1] = n;
        }
        s.n_token = n;
        CHECK(gr_shard_write(dir, i, &corpus, &s, "a: 1\n", &info[i]) == GR_OK, "write %d", (int)i);
        n_token += n;
        n_doc += s.n_doc;
    }
    CHECK(gr_shards_publish(dir, &corpus, info, N_SHARD, "a: \"1\"\n") == GR_OK, "publish");
}

static gr_status try_open(void)
{
    gr_shards *s = NULL;
    gr_status  st = gr_shards_open(&s, world, dir);

    CHECK((st == GR_OK) == (s != NULL), "a corpus and an error");
    gr_shards_close(&s);
    return st;
}

static void test_round_trip(void)
{
    gr_shards *s = NULL;
    uint32_t   t[N_SHARD * MAX_TOKENS];
    uint8_t    m[N_SHARD * MAX_TOKENS], d[N_SHARD * MAX_TOKENS];

    CHECK(gr_shards_open(&s, world, dir) == GR_OK, "open");
    if (!s) return;
    CHECK(gr_shards_tokens(s) == n_token && gr_shards_documents(s) == n_doc, "counts");
    CHECK(gr_shards_corpus(s)->vocab_size == 1000 && gr_shards_corpus(s)->eos == 7 &&
              !strcmp(gr_shards_corpus(s)->tokenizer, corpus.tokenizer) && strlen(gr_shards_digest(s)) == 16,
          "facts");
    for (int64_t first = 0; first <= n_token; first += 3)
        for (int64_t n = 0; n <= n_token - first; n += n < 20 ? 1 : 97) {
            memset(t, 0xEE, sizeof t);
            CHECK(gr_shards_read(s, first, n, t, m, d) == GR_OK, "read");
            CHECK(!memcmp(t, token + first, (size_t)n * 4) && !memcmp(m, mask + first, (size_t)n) &&
                      !memcmp(d, start + first, (size_t)n),
                  "[%d, + %d)", (int)first, (int)n);
            CHECK(t[n] == 0xEEEEEEEE, "wrote beyond");
        }
    CHECK(gr_shards_read(s, 0, n_token, NULL, NULL, d) == GR_OK &&
              gr_shards_read(s, 0, n_token, t, NULL, NULL) == GR_OK,
          "parts");
    CHECK(gr_shards_read(s, -1, 1, t, NULL, NULL) == GR_ERR_ARG &&
              gr_shards_read(s, 1, n_token, t, NULL, NULL) == GR_ERR_ARG &&
              gr_shards_read(s, 1, -1, t, NULL, NULL) == GR_ERR_ARG &&
              gr_shards_read(s, 1, INT64_MAX, t, NULL, NULL) == GR_ERR_ARG,
          "out of range");
    gr_shards_close(&s);
}

static void test_probe(void)
{
    gr_corpus     other = corpus;
    gr_shard_info found;

    CHECK(gr_shard_probe(dir, 5, &corpus, "feed", &found) == GR_OK && !memcmp(&found, &info[5], sizeof found), "probe");
    CHECK(gr_shard_probe(dir, 5, &corpus, "beef", &found) == GR_ERR_INPUT, "another source");
    CHECK(gr_shard_probe(dir, N_SHARD, &corpus, "feed", &found) == GR_ERR_INPUT, "missing");
    other.eos = 8;
    CHECK(gr_shard_probe(dir, 5, &other, "feed", &found) == GR_ERR_INPUT, "another corpus");
}

/* Flip one bit of a file, try, flip it back. */
static gr_status with_flip(const char *path, uint64_t at)
{
    char     *data = NULL;
    uint64_t  n = 0;
    gr_status st;

    CHECK(gr_read_file(path, 1 << 20, &data, &n) == GR_OK, "read %s", path);
    data[at % n] = (char)(data[at % n] ^ (1 << at % 8));
    CHECK(gr_write_file(path, data, n) == GR_OK, "write");
    st = try_open();
    data[at % n] = (char)(data[at % n] ^ (1 << at % 8));
    CHECK(gr_write_file(path, data, n) == GR_OK, "write");
    gr_free(&data);
    return st;
}

static void test_damage(void)
{
    char     index[GR_PATH_MAX], one[GR_PATH_MAX], two[GR_PATH_MAX];
    char    *data = NULL;
    uint64_t n = 0;

    snprintf(index, sizeof index, "%s", in_dir("index.json"));
    snprintf(one, sizeof one, "%s", in_dir("shard-00003.h5"));
    snprintf(two, sizeof two, "%s", in_dir("shard-00004.h5"));
    for (uint64_t at = 0; at < 3000; at += 61) CHECK(with_flip(index, at) == GR_ERR_INPUT, "index, bit %d", (int)at);
    for (uint64_t at = 0; at < 9000; at += 331) CHECK(with_flip(one, at) == GR_ERR_INPUT, "shard, bit %d", (int)at);

    CHECK(gr_read_file(index, 1 << 20, &data, &n) == GR_OK, "read");
    for (uint64_t cut = 0; cut < n; cut += n / 7) {
        CHECK(gr_write_file(index, data, cut) == GR_OK && try_open() == GR_ERR_INPUT, "index cut at %d", (int)cut);
    }
    CHECK(gr_write_file(index, data, n) == GR_OK, "write");
    CHECK(rename(one, in_dir("x")) == 0 && try_open() == GR_ERR_INPUT, "a missing shard");
    CHECK(rename(two, one) == 0 && rename(in_dir("x"), two) == 0 && try_open() == GR_ERR_INPUT, "swapped shards");
    CHECK(rename(two, in_dir("x")) == 0 && rename(one, two) == 0 && rename(in_dir("x"), one) == 0, "and back");
    CHECK(gr_shards_retract(dir) == GR_OK && try_open() == GR_ERR_INPUT && gr_shards_retract(dir) == GR_OK,
          "retracted");
    CHECK(gr_write_file(index, data, n) == GR_OK && try_open() == GR_OK, "as it was");
    gr_free(&data);
}

static void digest_of(const gr_corpus *of, const gr_shard *shard, const char *config, char digest[17])
{
    gr_shard_info one;
    gr_shards    *s = NULL;

    CHECK(gr_shard_write(dir, 0, of, shard, config, &one) == GR_OK &&
              gr_shards_publish(dir, of, &one, 1, config) == GR_OK,
          "write");
    CHECK(gr_shards_open(&s, NULL, dir) == GR_OK, "open");
    snprintf(digest, 17, "%s", s ? gr_shards_digest(s) : "");
    gr_shards_close(&s);
}

/* The digest is of the content: another configuration keeps it, one changed token, mask byte or border changes it. */
static void test_digest(void)
{
    uint32_t word[] = {1, 2, 3, 4};
    uint8_t  count[] = {1, 1, 0, 1};
    int64_t  offset[] = {0, 1, 4};
    gr_shard shard = {
        .tokens = word, .loss_mask = count, .doc_offsets = offset, .n_token = 4, .n_doc = 2, .source = ""};
    gr_corpus tokens_of_another = corpus, wider = corpus;
    char      first[17], other[17];

    digest_of(&corpus, &shard, "out: here", first);
    digest_of(&corpus, &shard, "out: there", other);
    CHECK(!strcmp(first, other), "another configuration: %s and %s", first, other);
    word[2] = 5;
    digest_of(&corpus, &shard, "out: here", other);
    CHECK(strcmp(first, other), "another word, the same digest");
    word[2] = 3;
    count[2] = 1;
    digest_of(&corpus, &shard, "out: here", other);
    CHECK(strcmp(first, other), "another mask, the same digest");
    count[2] = 0;
    offset[1] = 2;
    digest_of(&corpus, &shard, "out: here", other);
    CHECK(strcmp(first, other), "another border, the same digest");
    offset[1] = 1;
    tokens_of_another.tokenizer[0] = 'f';
    digest_of(&tokens_of_another, &shard, "out: here", other);
    CHECK(strcmp(first, other), "another tokenizer, the same digest");
    wider.vocab_size++;
    digest_of(&wider, &shard, "out: here", other);
    CHECK(strcmp(first, other), "another vocabulary, the same digest");
    digest_of(&corpus, &shard, "", other);
    CHECK(!strcmp(first, other), "as it was: %s and %s", first, other);
}

/* An index whose checksum is right and whose content is not. */
static void test_hostile_index(void)
{
    static const char *const edit[][2] = {
        {"\"format\":1", "\"format\":2"},
        {"\"kind\":\"shards\"", "\"kind\":\"shard!\""},
        {"\"vocab_size\":1000", "\"vocab_size\":0"},
        {"\"vocab_size\":1000", "\"vocab_size\":1001"},
        {"\"vocab_size\":1000", "\"vocab_size\":\"k\""},
        {"\"eos\":7", "\"eos\":1000"},
        {"\"eos\":7", "\"eos\":6"},
        {"0123456789abcdef", "0123456789abcdeg"},
        {"0123456789abcdef", "1123456789abcdef"},
        {"0123456789abcdef", "0123"},
        {"\"documents\":", "\"documents\":1"},
        {"\"tokens\":", "\"tokens\":-"},
        {"\"shards\":[", "\"shards\":[7,"},
        {"\"shards\":[", "\"shards\":[],\"x\":["},
        {"\"shards\":[", "\"shards\":5,\"x\":["},
        {"{\"tokens\":1,", "{\"tokens\":9223372036854775807,"},
        {"{\"tokens\":1,", "{\"tokens\":2,"},
        {"\"content\":\"", "\"content\":\"x"},
        {"\"content\":\"", "\"content\":7,\"x\":\""},
        {"\"content\":\"", "\"content\":\"00000001\",\"x\":\""},
        {"\"seal\":\"", "\"seal\":\"x"},
        {"\"seal\":\"", "\"seal\":5,\"x\":\""},
    };
    char    *data = NULL, text[16384];
    uint64_t n = 0;

    CHECK(gr_read_file(in_dir("index.json"), sizeof text - 256, &data, &n) == GR_OK, "read");
    for (size_t i = 0; data && i < sizeof edit / sizeof *edit; i++) {
        const char *at = strstr(data, edit[i][0]);
        const int   body = (int)(strstr(data, "\"crc32c\":\"") - data) + 10; /* up to the digits */
        int         m;

        CHECK(at, "nothing to edit: %s", edit[i][0]);
        if (!at) continue;
        m = snprintf(text, sizeof text, "%.*s%s%.*s", (int)(at - data), data, edit[i][1],
                     body - (int)(at - data) - (int)strlen(edit[i][0]), at + strlen(edit[i][0]));
        m += snprintf(text + m, sizeof text - (size_t)m, "%08x\"}\n", gr_crc32c(0, text, (size_t)m));
        CHECK(gr_write_file(in_dir("index.json"), text, (uint64_t)m) == GR_OK && try_open() == GR_ERR_INPUT,
              "accepted: %s", edit[i][1]);
    }
    CHECK(gr_write_file(in_dir("index.json"), data, n) == GR_OK && try_open() == GR_OK, "as it was");
    gr_free(&data);
}

/* Well-formed shards with bad content. */
static void test_hostile_shard(void)
{
    const uint32_t good[4] = {1, 2, 3, 999}, high[4] = {1, 1000, 2, 3};
    const uint8_t  ones[4] = {1, 1, 0, 1}, two[4] = {1, 2, 0, 1};
    const int64_t  fine[3] = {0, 1, 4}, repeat[3] = {0, 0, 4}, late[3] = {1, 2, 4}, early[3] = {0, 1, 3},
                  back[3] = {0, 5, 4};
    const gr_shard s[] = {{good, ones, fine, 4, 2, ""},   {high, ones, fine, 4, 2, ""}, {good, two, fine, 4, 2, ""},
                          {good, ones, repeat, 4, 2, ""}, {good, ones, late, 4, 2, ""}, {good, ones, early, 4, 2, ""},
                          {good, ones, back, 4, 2, ""}};
    gr_shard_info  one, none = {0};

    for (size_t i = 0; i < sizeof s / sizeof *s; i++) {
        CHECK(gr_shard_write(dir, 0, &corpus, &s[i], "", &one) == GR_OK, "write");
        CHECK(gr_shards_publish(dir, &corpus, &one, 1, "") == GR_OK, "publish");
        CHECK(try_open() == (i ? GR_ERR_INPUT : GR_OK), "shard %zu", i);
    }
    CHECK(gr_shard_write(dir, 0, &corpus, &s[0], "", &one) == GR_OK, "write");
    one.n_doc = 1;
    CHECK(gr_shards_publish(dir, &corpus, &one, 1, "") == GR_OK && try_open() == GR_ERR_INPUT,
          "wrong count of documents");
    CHECK(gr_shards_publish(dir, &corpus, &none, 0, "") == GR_OK && try_open() == GR_ERR_INPUT, "no shards");
}

int main(int argc, char **argv)
{
    CHECK(gr_comm_init(&world, &argc, &argv) == GR_OK, "init");
    CHECK(mkdtemp(dir), "mkdtemp");
    write_corpus();
    test_round_trip();
    test_probe();
    test_damage();
    test_hostile_index();
    test_hostile_shard();
    test_digest();
    CHECK(gr_remove_tree(dir) == GR_OK, "clean up");
    gr_comm_finalize(&world);
    return check_result();
}
