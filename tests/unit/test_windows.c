/* What a model sees of the stream, against the definition applied token by token: ids, positions, documents, targets;
 * and the loader's order. */
/*TEST
np: 1
timeout: 30
*/
#include "tests/tiny.h"

static uint32_t *all;
static uint8_t  *mask, *start;
static int64_t   n_all;

/* Windows of any length, packed; the definition is data/windows.h's. */
static void check_fill(gr_windows *w, const int64_t *from, const int64_t *length, int64_t n)
{
    gr_batch b;
    int64_t  row = 0;
    int      d = 0;

    CHECK(gr_windows_fill(w, from, length, n, &b) == GR_OK, "fill");
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0, pos = 0; j < length[i]; j++, row++) {
            const int64_t at = from[i] + j;
            const bool    begins = j == 0 || start[at], more = at + 1 < n_all && !start[at + 1] && mask[at + 1];
            pos = begins ? 0 : pos + 1;
            if (begins) {
                CHECK(d < b.seq.n_doc && b.seq.doc[d] == row, "document %d begins at row %lld", d, (long long)row);
                d++;
            }
            CHECK(((int32_t *)b.ids.data)[row] == (int32_t)all[at], "id of row %lld", (long long)row);
            CHECK(((uint8_t *)b.mask.data)[row] == mask[at], "mask of row %lld", (long long)row);
            CHECK(((int32_t *)b.seq.pos.data)[row] == pos, "position of row %lld", (long long)row);
            CHECK(((int32_t *)b.targets.id.data)[row] == (more ? (int32_t)all[at + 1] : -1), "target of row %lld",
                  (long long)row);
        }
    CHECK(d == b.seq.n_doc && b.seq.doc[d] == row && b.seq.n == row, "%d documents, %lld rows", b.seq.n_doc,
          (long long)b.seq.n);
}

int main(void)
{
    char               dir[GR_PATH_MAX];
    gr_shards         *s = NULL;
    gr_windows        *w = NULL;
    gr_loader         *l = NULL;
    const gr_cfg_train train = {.batch = 3, .seed = 4};

    CHECK(tiny_corpus(dir, "corpus", 500, 8) == GR_OK && gr_shards_open(&s, NULL, dir) == GR_OK, "corpus");
    n_all = gr_shards_tokens(s);
    CHECK(gr_alloc(&all, (uint64_t)n_all, 4, "") == GR_OK && gr_alloc(&mask, (uint64_t)n_all, 1, "") == GR_OK,
          "memory");
    CHECK(gr_alloc(&start, (uint64_t)n_all, 1, "") == GR_OK && gr_shards_read(s, 0, n_all, all, mask, start) == GR_OK,
          "read");

    CHECK(gr_windows_open(&w, &gr_ops_cpu, s, NULL, 200) == GR_OK, "windows");
    check_fill(w, (int64_t[]){0}, (int64_t[]){1}, 1);
    check_fill(w, (int64_t[]){0, 100, 7}, (int64_t[]){64, 64, 64}, 3);
    check_fill(w, (int64_t[]){470, 499, 500}, (int64_t[]){60, 2, 1}, 3); /* across the border of two shards */
    check_fill(w, (int64_t[]){n_all - 1, n_all - 20}, (int64_t[]){1, 20},
               2); /* the end of the stream has no next token */
    gr_batch b;
    CHECK(gr_windows_fill(w, (int64_t[]){0}, (int64_t[]){201}, 1, &b) == GR_ERR_ARG, "more than there is room for");

    /* end to end: 60, 60 and the rest, 11, cut at the end of the range and not at the room or the stream */
    static int32_t once[131];
    CHECK(gr_windows_fill(w, (int64_t[]){450, 510, 570}, (int64_t[]){60, 60, 11}, 3, &b) == GR_OK, "fill");
    memcpy(once, b.ids.data, sizeof once);
    const int n_doc = b.seq.n_doc;
    CHECK(gr_windows_run(w, 450, 581, 60, 5, &b) == GR_OK && b.seq.n == 131 && b.seq.n_doc == n_doc, "run");
    CHECK(!memcmp(once, b.ids.data, sizeof once), "run and fill differ");
    CHECK(gr_windows_run(w, 450, 581, 60, 2, &b) == GR_OK && b.seq.n == 120, "two windows of three");
    gr_windows_close(&w);

    /* One epoch of the loader visits every window once; another epoch in another order; another context, other windows.
     */
    const gr_cfg_data data = {.shards = dir, .context = 32, .micro_batch = 2};
    const int64_t     windows = (n_all - 1) / 32;
    uint8_t           seen[64] = {0};
    int64_t           moved = 0;
    CHECK(gr_loader_open(&l, NULL, NULL, &gr_ops_cpu, &data, &train, "", TINY_VOCAB) == GR_OK, "loader");
    for (int64_t i = 0; i < windows; i++) {
        const int64_t at = gr_loader_start(l, i);
        CHECK(at % 32 == 0 && at / 32 < windows && !seen[at / 32], "window %lld twice, or outside", (long long)at);
        seen[at / 32] = 1;
        moved += at != gr_loader_start(l, windows + i);
    }
    CHECK(moved > windows / 2, "the second epoch has the order of the first");
    CHECK(gr_loader_micros(l, 0) == 2 && gr_loader_step_tokens(l) == 96, "three sequences, two at a time");
    CHECK(gr_loader_get(l, 5, 1, &b) == GR_OK && b.seq.n == 32, "the rest of a batch");
    CHECK(((int32_t *)b.ids.data)[0] == (int32_t)all[gr_loader_start(l, 5 * 3 + 2)], "which window that is");
    gr_loader_close(&l);
    CHECK(gr_loader_open(&l, NULL, NULL, &gr_ops_cpu, &data, &train, "", TINY_VOCAB - 1) == GR_ERR_INPUT,
          "a model of fewer tokens");

    gr_free(&all);
    gr_free(&mask);
    gr_free(&start);
    gr_shards_close(&s);
    return check_result();
}
