/* The teacher's predictions: what is read is what was written, to fp16's rounding; damage and nonsense are refused. */
/*TEST
np: 1
timeout: 20
*/
#include "store/h5.h"
#include "store/logits.h"
#include "tests/check.h"
#include "util/fs.h"
#include "util/half.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { K = 5, CONTEXT = 8, SPAN = 24, TOKENS = 100, VOCAB = 1000, FILES = 5 };

static char                 dir[GR_PATH_MAX];
static const gr_logits_spec spec = {K, CONTEXT, SPAN, TOKENS, VOCAB, "0123456789abcdef", "fedcba9876543210"};
static int32_t              id[TOKENS * K], id2[TOKENS * K];
static float                lp[TOKENS * K], lp2[TOKENS * K], tail[TOKENS], tail2[TOKENS];

static void fill(void)
{
    for (int p = 0; p < TOKENS; p++) {
        for (int j = 0; j < K; j++) {
            id[p * K + j] = (p * 37 + j * 11) % VOCAB;
            lp[p * K + j] = -0.013f * (float)(p + 1) - 1.7f * (float)(j * j);
        }
        tail[p] = p % 7 ? -3.1f - (float)p : -INFINITY;
    }
    lp[3 * K] = 0.0005f;        /* above 0 by rounding */
    lp[9 * K + K - 1] = -1e30f; /* clamped             */
}

static gr_status write_file(int64_t i)
{
    const int64_t at = i * SPAN, n = at + SPAN < TOKENS ? SPAN : TOKENS - at;

    return gr_logits_write(dir, &spec, i, n, id + at * K, lp + at * K, tail + at, "seed: 1\n");
}

static gr_status open_and_close(void)
{
    gr_logits      *l = NULL;
    const gr_status st = gr_logits_open(&l, NULL, dir);

    CHECK((st == GR_OK) == (l != NULL), "outputs are set on success only");
    gr_logits_close(&l);
    return st;
}

static void round_trip(void)
{
    gr_logits *l = NULL;

    CHECK(gr_logits_files(&spec) == FILES, "files");
    for (int64_t i = 0; i < FILES; i++) {
        CHECK(!gr_logits_have(dir, &spec, i), "file %d is not there yet", (int)i);
        CHECK(write_file(i) == GR_OK, "write %d", (int)i);
        CHECK(gr_logits_have(dir, &spec, i), "file %d is there", (int)i);
    }
    CHECK(open_and_close() == GR_ERR_INPUT, "no index yet");
    CHECK(gr_logits_publish(dir, &spec, "seed: 1\n") == GR_OK, "publish");
    CHECK(gr_logits_open(&l, NULL, dir) == GR_OK, "open");
    if (!l) return;
    CHECK(gr_logits_spec_of(l)->k == K && gr_logits_spec_of(l)->context == CONTEXT &&
              !strcmp(gr_logits_spec_of(l)->teacher, spec.teacher),
          "spec");
    for (int64_t first = 0; first <= TOKENS; first += 13)
        for (int64_t n = 0; first + n <= TOKENS; n += 29) {
            memset(id2, -1, sizeof id2);
            CHECK(gr_logits_read(l, first, n, id2, lp2, tail2) == GR_OK, "read");
            CHECK(!memcmp(id2, id + first * K, (size_t)n * K * sizeof *id), "ids of %d positions from %d", (int)n,
                  (int)first);
            CHECK(n == TOKENS || id2[n * K] == -1, "more than %d positions written", (int)n);
            for (int64_t i = 0; i < n * K; i++) {
                const float x = lp[first * K + i], want = x > 0 ? 0 : x < -60000 ? -60000 : x;
                CHECK(fabsf(lp2[i] - want) <= fabsf(want) * 0x1p-11f, "lp %g becomes %g", (double)want, (double)lp2[i]);
                CHECK(lp2[i] == gr_f32_of_f16(gr_f16_of_f32(want)), "lp is not rounded to nearest");
            }
            for (int64_t i = 0; i < n; i++)
                CHECK(tail2[i] == gr_f32_of_f16(gr_f16_of_f32(tail[first + i])), "tail %g becomes %g",
                      (double)tail[first + i], (double)tail2[i]);
        }
    CHECK(gr_logits_read(l, 90, 11, id2, lp2, tail2) == GR_ERR_ARG, "past the end");
    gr_logits_close(&l);
}

/* One value that must not be: refused by the writer. */
static void nonsense(void)
{
    int32_t keep_id;
    float   keep;

#define BROKEN(place, keeper, value, what)                                                                             \
    do {                                                                                                               \
        keeper = place;                                                                                                \
        place = value;                                                                                                 \
        CHECK(write_file(0) == GR_ERR_NUMERIC, what);                                                                  \
        place = keeper;                                                                                                \
    } while (0)
    BROKEN(id[7], keep_id, VOCAB, "an id that is not in the vocabulary");
    BROKEN(id[7], keep_id, -1, "a negative id");
    BROKEN(lp[5], keep, 0.01f, "a probability above 1");
    BROKEN(lp[6], keep, NAN, "NaN");
    BROKEN(lp[5], keep, NAN, "NaN in front");
    BROKEN(lp[9], keep, -INFINITY, "an infinite log-probability");
    BROKEN(lp[7], keep, -1000, "not falling");
    BROKEN(tail[2], keep, NAN, "NaN in the tail");
    BROKEN(tail[2], keep, 1, "a tail above 1");
#undef BROKEN
    CHECK(gr_logits_write(dir, &spec, FILES, 4, id, lp, tail, "") == GR_ERR_ARG, "a file too many");
    CHECK(gr_logits_write(dir, &spec, 0, 23, id, lp, tail, "") == GR_ERR_ARG, "too few positions");
}

static void flip(const char *path, long at)
{
    const int     fd = open(path, O_RDWR);
    unsigned char b = 0;

    CHECK(fd >= 0 && pread(fd, &b, 1, at) == 1, "%s: read", path);
    b ^= 1;
    CHECK(pwrite(fd, &b, 1, at) == 1, "%s: write", path);
    close(fd);
}

static void damage(void)
{
    char           path[GR_PATH_MAX], other[GR_PATH_MAX];
    char          *text = NULL;
    uint64_t       n = 0;
    gr_logits_spec s = spec;

    CHECK(gr_path(path, "%s/index.json", dir) == GR_OK && gr_read_file(path, 1 << 20, &text, &n) == GR_OK, "index");
    for (long at = 0; at < (long)n; at += at < 40 || at > (long)n - 40 ? 1 : 17) {
        flip(path, at);
        CHECK(open_and_close() == GR_ERR_INPUT, "index.json: bit of byte %ld flipped", at);
        flip(path, at);
    }
    CHECK(open_and_close() == GR_OK, "the index is good again");
    gr_free(&text);

    CHECK(gr_path(path, "%s/logits-00002.h5", dir) == GR_OK, "path");
    flip(path, 3000);
    CHECK(open_and_close() == GR_ERR_INPUT && !gr_logits_have(dir, &spec, 2), "a flipped bit");
    CHECK(gr_logits_have(dir, &spec, 1), "its neighbour is good");
    flip(path, 3000);
    CHECK(gr_path(other, "%s/aside", dir) == GR_OK && !rename(path, other), "rename");
    CHECK(open_and_close() == GR_ERR_INPUT && !gr_logits_have(dir, &spec, 2), "a missing file");
    CHECK(gr_logits_publish(dir, &spec, "") == GR_ERR_INPUT, "published without a file");
    CHECK(!rename(other, path), "rename");

    /* Another file in its place, itself complete. */
    lp[2 * SPAN * K + 4] -= 1;
    CHECK(write_file(2) == GR_OK && gr_logits_have(dir, &spec, 2), "written again");
    CHECK(open_and_close() == GR_ERR_INPUT, "a file that the index does not know");
    CHECK(gr_logits_publish(dir, &spec, "") == GR_OK && open_and_close() == GR_OK, "published again");

    s.teacher[0] = 'a';
    CHECK(!gr_logits_have(dir, &s, 0), "another teacher");
    s = spec;
    s.vocab_size++;
    CHECK(!gr_logits_have(dir, &s, 0), "another vocabulary");
}

/* Complete, sealed, and wrong: only reading can tell. */
static void lies(void)
{
    const int64_t  dim[] = {4, 1};
    gr_logits_spec s = {1, 4, 4, 4, 10, "c", "t"};
    const uint32_t bad_id[] = {1, 2, 10, 3}, far_id[] = {1, 2, 3, 0xFFFFFFFF};
    const uint16_t zero[4] = {0};
    char           path[GR_PATH_MAX];
    gr_logits     *l = NULL;
    gr_h5         *f = NULL;

    for (int turn = 0; turn < 2; turn++) {
        CHECK(gr_path(path, "%s/lies%d", dir, turn) == GR_OK && gr_mkdirs(path) == GR_OK, "directory");
        CHECK(gr_path(path, "%s/lies%d/logits-00000.h5", dir, turn) == GR_OK, "path");
        CHECK(gr_h5_create(&f, path, "logits") == GR_OK, "create");
        gr_h5_set_int(f, NULL, "k", 1);
        gr_h5_set_int(f, NULL, "context", 4);
        gr_h5_set_int(f, NULL, "span", 4);
        gr_h5_set_int(f, NULL, "tokens", 4);
        gr_h5_set_int(f, NULL, "vocab_size", 10);
        gr_h5_set_int(f, NULL, "first", 0);
        gr_h5_set_str(f, NULL, "corpus", "c");
        gr_h5_set_str(f, NULL, "teacher", "t");
        gr_h5_set_int(f, NULL, "content", 0);
        gr_h5_write(f, "id", GR_U32, 2, dim, turn ? far_id : bad_id);
        gr_h5_write(f, "lp", GR_F16, 2, dim, zero);
        gr_h5_write(f, "tail", GR_F16, 1, dim, zero);
        CHECK(gr_h5_commit(&f) == GR_OK, "commit");
        CHECK(gr_path(path, "%s/lies%d", dir, turn) == GR_OK, "path");
        CHECK(gr_logits_publish(path, &s, "") == GR_OK && gr_logits_open(&l, NULL, path) == GR_OK, "open");
        if (!l) return;
        CHECK(gr_logits_read(l, 0, 2, id2, lp2, tail2) == GR_OK, "good positions");
        CHECK(gr_logits_read(l, 0, 4, id2, lp2, tail2) == GR_ERR_INPUT, "an id outside of the vocabulary is read");
        gr_logits_close(&l);
    }
}

int main(void)
{
    const char *scratch = getenv("GR_TEST_DIR");

    CHECK(gr_path(dir, "%s/logits-unit", scratch ? scratch : ".") == GR_OK, "directory");
    fill();
    round_trip();
    nonsense();
    damage();
    lies();
    CHECK(gr_remove_tree(dir) == GR_OK, "clean up");
    return check_result();
}
