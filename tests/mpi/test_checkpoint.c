/* Saved by n ranks in one cut, read back by n ranks in another: bitwise the same. Retention, scalars, ranks that own
 * nothing, pieces that do not fit together, another run's lock, failures on one rank; the same beside the training. */
/*TEST
np: 1 2 3 4
timeout: 60
*/
#include "comm/comm.h"
#include "store/checkpoint.h"
#include "store/json_seal.h"
#include "tests/check.h"
#include "util/fs.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 5, MOST_EACH = 3 };

typedef struct logical {
    const char *name;
    gr_dtype    dtype;
    int         rank;
    int64_t     dim[GR_MAX_DIM];
} logical;

static const logical tensor[N] = {{"layers.0.q.weight", GR_F32, 2, {1009, 3}},
                                  {"layers.0.q.weight.m", GR_F64, 1, {17}},
                                  {"ids", GR_U16, 3, {29, 2, 5}},
                                  {"step", GR_I64, 0, {0}},
                                  {"mask", GR_U8, 4, {101, 1, 2, 3}}};

static char dir[GR_PATH_MAX];

static int64_t rows_of(const logical *t)
{
    return t->rank ? t->dim[0] : 1;
}

static int64_t row_bytes(const logical *t)
{
    int64_t n = gr_dtype_size(t->dtype);

    for (int d = 1; d < t->rank; d++) n *= t->dim[d];
    return n;
}

/* Byte b of tensor i at a step. */
static unsigned char byte_at(int i, int64_t b, int64_t step)
{
    return (unsigned char)((uint64_t)(b + 1) * 2654435761u * (uint64_t)(i + 3 + step) >> 11);
}

/* Where part k of `parts` begins: later parts are larger, early ones may be empty. */
static int64_t cut(int64_t rows, int64_t k, int64_t parts)
{
    return rows * k * k / (parts * parts);
}

typedef struct state {
    gr_ckpt_piece  piece[MOST_EACH * N];
    int64_t        n;
    unsigned char *data[MOST_EACH * N];
} state;

static void state_close(state *s)
{
    for (int64_t i = 0; i < s->n; i++) gr_free(&s->data[i]);
    s->n = 0;
}

/* This rank's pieces: `each` consecutive parts of every tensor, dealt in order when turn is 0, backwards when it is 1.
 */
static void state_open(state *s, const gr_comm *c, int each, int turn)
{
    const int size = gr_comm_size(c), parts = each * size;

    memset(s, 0, sizeof *s);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < each; k++) {
            const logical *t = &tensor[i];
            const int      part = turn ? parts - 1 - (k * size + gr_comm_rank(c)) : gr_comm_rank(c) * each + k;
            gr_ckpt_piece *p = &s->piece[s->n];

            p->name = t->name;
            p->dtype = t->dtype;
            p->rank = t->rank;
            memcpy(p->dim, t->dim, sizeof p->dim);
            p->first = cut(rows_of(t), part, parts);
            p->count = cut(rows_of(t), part + 1, parts) - p->first;
            CHECK(gr_alloc(&s->data[s->n], (uint64_t)(p->count * row_bytes(t)), 1, "piece") == GR_OK, "memory");
            p->data = s->data[s->n++];
        }
}

static void fill(state *s, int each, int64_t step)
{
    for (int64_t k = 0; k < s->n; k++) {
        const int i = (int)(k / each);
        for (int64_t b = 0; b < s->piece[k].count * row_bytes(&tensor[i]); b++)
            s->data[k][b] = byte_at(i, s->piece[k].first * row_bytes(&tensor[i]) + b, step);
    }
}

static bool right(const state *s, int each, int64_t step)
{
    for (int64_t k = 0; k < s->n; k++) {
        const int i = (int)(k / each);
        for (int64_t b = 0; b < s->piece[k].count * row_bytes(&tensor[i]); b++)
            if (s->data[k][b] != byte_at(i, s->piece[k].first * row_bytes(&tensor[i]) + b, step)) return false;
    }
    return true;
}

/* gr_ckpt_save or gr_ckpt_begin; what was passed is overwritten and freed at once. */
static gr_status save_by(gr_status (*by)(gr_ckpt_dir *, int64_t, const gr_ckpt_piece *, int64_t, const char *, int),
                         gr_ckpt_dir *d, const gr_comm *c, int64_t step, int keep)
{
    state     s;
    char      meta[128];
    gr_status st;

    state_open(&s, c, 2, 0);
    fill(&s, 2, step);
    snprintf(meta, sizeof meta, "{\"loss\": 0.1, \"tokens\": %lld}", (long long)step * 4096);
    st = by(d, step, s.piece, s.n, meta, keep);
    fill(&s, 2, step + 1);
    memset(meta, 'x', sizeof meta);
    state_close(&s);
    return st;
}

static gr_status save(gr_ckpt_dir *d, const gr_comm *c, int64_t step, int keep)
{
    return save_by(gr_ckpt_save, d, c, step, keep);
}

static gr_status begin(gr_ckpt_dir *d, const gr_comm *c, int64_t step, int keep)
{
    return save_by(gr_ckpt_begin, d, c, step, keep);
}

/* The newest checkpoint is `step`, and right in every byte, however it is cut. */
static void newest_is(gr_ckpt_dir *d, const gr_comm *c, int64_t step)
{
    gr_ckpt *ck = NULL;
    state    s;
    char     meta[128];

    CHECK(gr_ckpt_open_newest(&ck, d, NULL, 0) == GR_OK && ck, "open newest");
    if (!ck) return;
    CHECK(gr_ckpt_step(ck) == step, "newest is %lld, expected %lld", (long long)gr_ckpt_step(ck), (long long)step);
    snprintf(meta, sizeof meta, "\"tokens\":%lld", (long long)step * 4096);
    CHECK(strstr(gr_ckpt_meta(ck), meta) && strstr(gr_ckpt_meta(ck), "0.1"), "meta is %s", gr_ckpt_meta(ck));
    for (int each = 1; each <= MOST_EACH; each++) { /* 2 is the cut that was saved, 3 meets none of its cuts */
        state_open(&s, c, each, 1);
        for (int64_t k = 0; k < s.n; k++) CHECK(gr_ckpt_read(ck, &s.piece[k]) == GR_OK, "read %s", s.piece[k].name);
        CHECK(right(&s, each, step), "what is read differs");
        fill(&s, each, step + 1);
        gr_ckpt_close(&ck);
        CHECK(gr_ckpt_open_newest(&ck, d, s.piece, s.n) == GR_OK && ck, "open and read");
        CHECK(right(&s, each, step), "what is read on the way differs");
        state_close(&s);
        if (!ck) return;
    }
    gr_ckpt_close(&ck);
}

/* Rank 0: how many names in DIR begin with `prefix`; all ranks get it. */
static int64_t count(const gr_comm *c, const char *prefix)
{
    char  **name = NULL;
    int64_t n = 0, found = 0;

    gr_barrier(c);
    if (gr_comm_rank(c) == 0) {
        CHECK(gr_list(dir, &name, &n) == GR_OK, "list");
        for (int64_t i = 0; i < n; i++) found += !strncmp(name[i], prefix, strlen(prefix));
        gr_names_free(&name, n);
    }
    gr_bcast(c, &found, sizeof found, 0);
    return found;
}

static bool there(const gr_comm *c, int64_t step)
{
    char name[64];

    snprintf(name, sizeof name, "step-%08lld", (long long)step);
    return count(c, name) == 1;
}

static void round_trip_and_retention(const gr_comm *c)
{
    gr_ckpt_dir *d = NULL;
    gr_ckpt     *ck = NULL;

    CHECK(gr_ckpt_dir_open(&d, c, dir) == GR_OK, "open");
    if (!d) return;
    CHECK(gr_ckpt_open_newest(&ck, d, NULL, 0) == GR_OK && !ck, "nothing is there");
    for (int64_t step = 7; step <= 70; step += 7) {
        CHECK(save(d, c, step, 3) == GR_OK, "save %lld", (long long)step);
        CHECK(count(c, "step-") == (step < 21 ? step / 7 : 3), "%lld kept", (long long)count(c, "step-"));
    }
    newest_is(d, c, 70);
    CHECK(there(c, 56) && there(c, 63) && there(c, 70), "the newest three are kept");
    CHECK(save(d, c, 70, 3) == GR_OK, "a step that is there counts as saved");
    CHECK(save(d, c, 123456789, 1) == GR_OK, "nine digits");
    CHECK(count(c, "step-") == 1, "one kept");
    newest_is(d, c, 123456789);
    CHECK(count(c, ".tmp-") == 0 && count(c, ".del-") == 0, "nothing is left over");
    gr_barrier(c);
    gr_ckpt_dir_close(&d);
}

/* Beside the training: two saves back to back, one that is published when all writers say so, and one under way at the
 * end. */
static void beside(const gr_comm *c)
{
    gr_ckpt_dir *d = NULL;

    CHECK(gr_ckpt_dir_open(&d, c, dir) == GR_OK, "open");
    if (!d) return;
    CHECK(begin(d, c, 130000000, 2) == GR_OK && begin(d, c, 130000001, 2) == GR_OK, "back to back");
    CHECK(there(c, 130000000) && !there(c, 130000001), "the second publishes the first");
    for (int64_t busy = 1; busy;) {
        busy = !gr_ckpt_written(d);
        gr_max_i64(c, &busy, 1);
    }
    CHECK(gr_ckpt_phase_of(d) == GR_CKPT_WRITING && gr_ckpt_publish(d) == GR_OK, "publish");
    CHECK(there(c, 130000001) && there(c, 123456789) && gr_ckpt_phase_of(d) == GR_CKPT_READING, "not read back yet");
    CHECK(gr_ckpt_last(d)->step == 130000001 && gr_ckpt_last(d)->bytes > 1009 * 12, "told");
    CHECK(gr_ckpt_settle(d) == GR_OK && !there(c, 123456789) && count(c, "step-") == 2, "two good ones are kept");
    newest_is(d, c, 130000001);
    CHECK(begin(d, c, 130000002, 2) == GR_OK, "begin");
    gr_barrier(c);
    gr_ckpt_dir_close(&d);
    CHECK(!there(c, 130000002) && count(c, ".tmp-") == 1, "given up");
    CHECK(gr_ckpt_dir_open(&d, c, dir) == GR_OK && count(c, ".tmp-") == 0, "the next run cleans up");
    newest_is(d, c, 130000001);
    gr_barrier(c);
    gr_ckpt_dir_close(&d);
}

/* The newest is `step`. All ranks want all of it; each its share, which then goes to all; what it does not have. */
static void wanted(const gr_comm *c, int64_t step)
{
    gr_ckpt_dir  *d = NULL;
    gr_ckpt      *ck = NULL;
    gr_ckpt_piece own[MOST_EACH * N], other[2];
    state         s;

    state_open(&s, NULL, 1, 0);
    CHECK(gr_ckpt_dir_open(&d, c, dir) == GR_OK && gr_ckpt_open_newest(&ck, d, s.piece, s.n) == GR_OK && ck, "open");
    CHECK(right(&s, 1, step), "all want all");
    gr_ckpt_close(&ck);
    fill(&s, 1, step + 1);
    memcpy(own, s.piece, sizeof own);
    gr_ckpt_deal(own, s.n, gr_comm_rank(c), gr_comm_size(c));
    CHECK(gr_ckpt_open_newest(&ck, d, own, s.n) == GR_OK && ck, "open");
    CHECK(gr_comm_size(c) == 1 || !right(&s, 1, step), "more than was asked for");
    CHECK(gr_ckpt_spread(c, s.piece, s.n) == GR_OK && right(&s, 1, step), "spread");
    gr_ckpt_close(&ck);
    fill(&s, 1, step + 1);
    other[0] = other[1] = s.piece[0];
    other[0].name = "another";
    other[1].first = 1;
    CHECK(gr_ckpt_open_newest(&ck, d, other, 2) == GR_OK && ck, "open");
    CHECK(ck && gr_ckpt_fits(ck, &other[0]) == GR_ERR_INPUT && gr_ckpt_fits(ck, &other[1]) == GR_ERR_ARG, "fits");
    CHECK(ck && gr_ckpt_fits(ck, &s.piece[0]) == GR_OK && right(&s, 1, step + 1), "nothing was asked for");
    gr_ckpt_close(&ck);
    gr_barrier(c);
    gr_ckpt_dir_close(&d);
    state_close(&s);
}

/* ---- of several chunks and blocks ---- */

enum { L_ROWS = 1201, L_COLS = 8191, L_BYTES = L_ROWS * L_COLS * 4, L_MORE = 7 };

static void large_fill(uint32_t *x, int64_t n, int64_t first, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) x[i] = ((uint32_t)(first + i) ^ seed) * 2654435761u;
}

static bool large_right(const uint32_t *x, int64_t n, int64_t first, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++)
        if (x[i] != ((uint32_t)(first + i) ^ seed) * 2654435761u) return false;
    return true;
}

/* A byte in the middle of the last shard. */
static void large_damage(const gr_comm *c, const char *path, int64_t step)
{
    char    file[GR_PATH_MAX];
    uint8_t byte = 0;
    int     fd, n = gr_comm_size(c);

    gr_barrier(c);
    if (gr_comm_rank(c) == 0) {
        CHECK(gr_path(file, "%s/step-%08d/shard-%05d-of-%05d.h5", path, (int)step, n - 1, n) == GR_OK, "path");
        fd = open(file, O_RDWR);
        CHECK(fd >= 0 && pread(fd, &byte, 1, L_BYTES / n / 2) == 1, "%s", file);
        byte ^= 16;
        CHECK(pwrite(fd, &byte, 1, L_BYTES / n / 2) == 1 && !close(fd), "%s", file);
    }
    gr_barrier(c);
}

/* Cut as nobody saved it, neighbours wanting some of the same rows, all of them row 3: everything is right. */
static void large_is(gr_ckpt_dir *d, const gr_comm *c, int64_t step, uint32_t *x)
{
    gr_ckpt      *ck = NULL;
    gr_ckpt_piece p[2] = {{"large", GR_F32, 2, {L_ROWS, L_COLS}, 0, 0, x},
                          {"large", GR_F32, 2, {L_ROWS, L_COLS}, 3, 1, NULL}};
    int64_t       end;

    gr_share(L_ROWS, gr_comm_rank(c), gr_comm_size(c), &p[0].first, &p[0].count);
    end = p[0].first + p[0].count + L_MORE < L_ROWS ? p[0].first + p[0].count + L_MORE : L_ROWS;
    p[0].first = p[0].first > L_MORE ? p[0].first - L_MORE : 0;
    p[0].count = end - p[0].first;
    p[1].data = x + p[0].count * L_COLS;
    memset(x, 0, (size_t)(p[0].count + 1) * L_COLS * sizeof *x);
    CHECK(gr_ckpt_open_newest(&ck, d, p, 2) == GR_OK && ck && gr_ckpt_step(ck) == step, "open");
    CHECK(large_right(x, p[0].count * L_COLS, p[0].first * L_COLS, (uint32_t)step), "rows of a large tensor");
    CHECK(large_right(p[1].data, L_COLS, 3 * L_COLS, (uint32_t)step), "row 3");
    memset(x, 0, (size_t)p[0].count * L_COLS * sizeof *x);
    CHECK(ck && gr_ckpt_read(ck, &p[0]) == GR_OK, "read");
    CHECK(large_right(x, p[0].count * L_COLS, p[0].first * L_COLS, (uint32_t)step), "rows read afterwards");
    gr_ckpt_close(&ck);
}

/* [rank 0] A manifest that is well sealed and says another place than HDF5 does is found by looking. */
static void elsewhere(const char *path)
{
    gr_ckpt *ck = NULL;
    char     step[GR_PATH_MAX], file[GR_PATH_MAX], *text = NULL;
    uint64_t n = 0;
    json_t  *tree = NULL, *piece;

    CHECK(gr_path(step, "%s/step-00000001", path) == GR_OK && gr_path(file, "%s/manifest.json", step) == GR_OK, "path");
    CHECK(gr_ckpt_look(&ck, step) == GR_OK && gr_ckpt_check(ck, 0, false) == GR_OK, "as saved");
    gr_ckpt_close(&ck);
    CHECK(gr_read_file(file, 1 << 20, &text, &n) == GR_OK && gr_json_unseal(text, n, file, &tree) == GR_OK, "%s", file);
    piece = json_array_get(json_object_get(json_array_get(json_object_get(tree, "tensors"), 0), "pieces"), 0);
    CHECK(!json_array_set_new(piece, 3, json_integer(json_integer_value(json_array_get(piece, 3)) - 4)), "a place");
    gr_free(&text);
    CHECK(gr_json_seal(tree, &text, &n) == GR_OK && gr_write_file(file, text, n) == GR_OK, "seal");
    CHECK(gr_ckpt_look(&ck, step) == GR_OK && gr_ckpt_check(ck, 0, false) == GR_ERR_INPUT, "another place");
    gr_ckpt_close(&ck);
    gr_free(&text);
    json_decref(tree);
}

static void large(const gr_comm *c)
{
    gr_ckpt_dir *d = NULL;
    uint32_t    *x = NULL;
    char         path[GR_PATH_MAX];

    CHECK(gr_path(path, "%s/large", dir) == GR_OK && gr_alloc(&x, L_BYTES + L_COLS * 4, 1, "rows") == GR_OK, "memory");
    CHECK(gr_ckpt_dir_open(&d, c, path) == GR_OK, "open");
    for (int64_t step = 1; step <= 3; step++) {
        gr_ckpt_piece p = {"large", GR_F32, 2, {L_ROWS, L_COLS}, 0, L_ROWS, x};
        large_fill(x, L_ROWS * L_COLS, 0, (uint32_t)step);
        gr_ckpt_deal(&p, 1, gr_comm_rank(c), gr_comm_size(c));
        CHECK(gr_ckpt_save(d, step, &p, 1, "{}", 3) == GR_OK, "save");
    }
    large_is(d, c, 3, x);
    large_damage(c, path, 3);
    large_damage(c, path, 2);
    large_is(d, c, 1, x); /* two damaged ones have been there before it */
    gr_barrier(c);
    if (gr_comm_rank(c) == 0) elsewhere(path);
    gr_ckpt_dir_close(&d);
    gr_free(&x);
}

/* What gr_ckpt_read refuses. */
static void bad_reads(const gr_comm *c)
{
    gr_ckpt_dir  *d = NULL;
    gr_ckpt      *ck = NULL;
    float         x[6];
    gr_ckpt_piece p = {"layers.0.q.weight", GR_F32, 2, {1009, 3}, 1000, 2, x};

    CHECK(gr_ckpt_dir_open(&d, c, dir) == GR_OK && gr_ckpt_open_newest(&ck, d, NULL, 0) == GR_OK && ck, "open");
    if (!ck) return;
    CHECK(gr_ckpt_read(ck, &p) == GR_OK, "two rows");
    p.first = 1008;
    CHECK(gr_ckpt_read(ck, &p) == GR_ERR_ARG, "rows past the end");
    p.first = 0;
    p.dim[1] = 4;
    CHECK(gr_ckpt_read(ck, &p) == GR_ERR_INPUT, "another shape");
    p.dim[1] = 3;
    p.dtype = GR_BF16;
    CHECK(gr_ckpt_read(ck, &p) == GR_ERR_INPUT, "another type");
    p.dtype = GR_F32;
    p.name = "layers.1.q.weight";
    CHECK(gr_ckpt_read(ck, &p) == GR_ERR_INPUT, "absent");
    gr_ckpt_close(&ck);
    gr_barrier(c);
    gr_ckpt_dir_close(&d);
}

/* Pieces that are no checkpoint: the same status on all ranks, and nothing published. */
static void bad_saves(const gr_comm *c)
{
    const int     last = gr_comm_rank(c) == gr_comm_size(c) - 1, rank = gr_comm_rank(c);
    gr_ckpt_dir  *d = NULL;
    double        x[8] = {0};
    gr_ckpt_piece p = {"x", GR_F64, 1, {4}, 0, 4, x}, more[2] = {p, p};
    int64_t       one = last ? 1 : 0; /* one rank owns it all */

    CHECK(gr_ckpt_dir_open(&d, c, dir) == GR_OK, "open");
    if (!d) return;
    CHECK(gr_ckpt_save(d, 200000000, &p, one, "{}", 2) == GR_OK, "owned by one rank");
    CHECK(gr_ckpt_save(d, 200000001, NULL, 0, "{\"only\": \"meta\"}", 2) == GR_OK, "no tensors at all");
    p.count = 3;
    CHECK(gr_ckpt_save(d, 300000000, &p, one, "{}", 2) == GR_ERR_ARG, "a row is missing");
    p.first = 1;
    CHECK(gr_ckpt_save(d, 300000000, &p, one, "{}", 2) == GR_ERR_ARG, "the first row is missing");
    CHECK(gr_ckpt_save(d, 300000000, more, last ? 2 : 0, "{}", 2) != GR_OK, "there twice");
    more[0].count = 2;
    more[1].first = 1;
    more[1].count = 3;
    CHECK(gr_ckpt_save(d, 300000000, more, last ? 2 : 0, "{}", 2) == GR_ERR_ARG, "overlap");
    more[1].first = 2;
    more[1].count = 2;
    CHECK(gr_ckpt_save(d, 300000000, more, last ? 2 : 0, "{}", 2) == GR_OK, "no overlap");
    more[1].dim[0] = 5;
    CHECK(gr_ckpt_save(d, 300000001, more, last ? 2 : 0, "{}", 2) == GR_ERR_ARG, "two shapes of one tensor");
    p.first = 2;
    CHECK(gr_ckpt_save(d, 300000001, &p, one, "{}", 2) == GR_ERR_ARG, "rows past the end");
    p.first = p.count = 0;
    CHECK(gr_ckpt_save(d, 300000001, &p, 1, "{}", 2) == GR_OK, "empty pieces only");
    p.count = 4;
    CHECK(gr_ckpt_save(d, 300000002, &p, one, "[]", 2) == GR_ERR_ARG, "meta is no object");
    CHECK(gr_ckpt_save(d, 300000002, &p, one, "{", 2) == GR_ERR_ARG, "meta is no JSON");
    CHECK(gr_ckpt_save(d, 300000002, &p, one, "{}", 0) == GR_ERR_ARG, "keep nothing");
    CHECK(gr_ckpt_save(d, -1, &p, one, "{}", 1) == GR_ERR_ARG, "a step before the first");
    p.name = "a/b";
    CHECK(gr_ckpt_save(d, 300000002, &p, one, "{}", 2) == GR_ERR_ARG, "a slash in a name");
    p.name = "a\xff";
    CHECK(gr_ckpt_save(d, 300000002, &p, one, "{}", 2) == GR_ERR_ARG, "a name that is not UTF-8");
    if (gr_comm_size(c) > 1) {
        p.name = "x";
        p.first = 0;
        p.count = 4;
        CHECK(gr_ckpt_save(d, 300000002, &p, rank < 2 ? 1 : 0, "{}", 2) == GR_ERR_ARG, "owned by two ranks");
        p.dtype = rank ? GR_I64 : GR_F64;
        p.first = rank ? 2 : 0;
        p.count = 2;
        CHECK(gr_ckpt_save(d, 300000002, &p, rank < 2 ? 1 : 0, "{}", 2) == GR_ERR_ARG, "two ranks, two types");
    }
    CHECK(!there(c, 300000002) && there(c, 300000001) && there(c, 300000000), "only what is whole is published");
    CHECK(count(c, ".tmp-") == 0, "a refused save leaves its directory");
    gr_barrier(c);
    gr_ckpt_dir_close(&d);
}

/* One rank fails at a site: GR_ERR_SAVE everywhere, older ones intact, and the next save works. */
static void faults(const gr_comm *c)
{
    static const char *const site[] = {"ckpt_prepare", "ckpt_shard", "ckpt_commit", "ckpt_verify", "seal"};
    enum { SITES = sizeof site / sizeof *site };
    gr_ckpt_dir *d = NULL;
    char         fault[64];
    int64_t      step = 400000000;
    gr_status    st;

    CHECK(gr_ckpt_dir_open(&d, c, dir) == GR_OK && save(d, c, step, 2) == GR_OK, "save");
    if (!d) return;
    for (int bad = 0; bad < gr_comm_size(c); bad++)
        for (int k = 0; k < 2 * SITES; k++) {
            const bool async = k >= SITES;

            if (k % SITES == SITES - 1 && bad > 0)
                continue; /* a shard is sealed by a rank alone, which is rank 0 to it */
            snprintf(fault, sizeof fault, "%s:%d", site[k % SITES], bad);
            setenv("GR_FAULT", fault, 1);
            st = (async ? begin : save)(d, c, step + 1, 2);
            if (async && st == GR_OK) st = gr_ckpt_publish(d);
            if (async && st == GR_OK) st = gr_ckpt_settle(d);
            unsetenv("GR_FAULT");
            CHECK(st == GR_ERR_SAVE && gr_ckpt_phase_of(d) == GR_CKPT_IDLE, "%s: %s", fault, gr_status_name(st));
            CHECK(there(c, step) && !there(c, step + 1) && count(c, ".tmp-") == 0, "%s: what is left", fault);
            newest_is(d, c, step);
            CHECK(save(d, c, ++step, 2) == GR_OK, "the save after %s", fault);
        }
    CHECK(count(c, "bad-step-") == 2 * gr_comm_size(c), "what read back damaged is set aside");
    newest_is(d, c, step);
    gr_barrier(c);
    gr_ckpt_dir_close(&d);
}

/* Another attempt has taken over: this one may not publish, and says so. */
static void fenced(const gr_comm *c)
{
    gr_ckpt_dir *d = NULL;
    char         path[GR_PATH_MAX];

    CHECK(gr_ckpt_dir_open(&d, c, dir) == GR_OK && gr_path(path, "%s/.generation", dir) == GR_OK, "open");
    if (!d) return;
    gr_barrier(c);
    if (gr_comm_rank(c) == 0) CHECK(gr_write_file(path, "999-1-1", 7) == GR_OK, "take over");
    gr_barrier(c);
    CHECK(save(d, c, 500000000, 2) == GR_ERR_SAVE, "a zombie publishes");
    CHECK(!there(c, 500000000) && count(c, ".tmp-") == 0, "a zombie leaves something");
    gr_barrier(c);
    gr_ckpt_dir_close(&d);
    CHECK(gr_ckpt_dir_open(&d, c, dir) == GR_OK && save(d, c, 500000000, 2) == GR_OK, "the next run");
    gr_barrier(c);
    gr_ckpt_dir_close(&d);
}

int main(int argc, char **argv)
{
    const char *scratch = getenv("GR_TEST_DIR");
    gr_comm    *c = NULL;

    if (gr_comm_init(&c, &argc, &argv) != GR_OK) return 1;
    gr_log_identity("test_checkpoint", gr_comm_rank(c));
    CHECK(gr_path(dir, "%s/checkpoint-mpi", scratch ? scratch : ".") == GR_OK, "directory");
    round_trip_and_retention(c);
    beside(c);
    wanted(c, 130000001);
    large(c);
    bad_reads(c);
    bad_saves(c);
    faults(c);
    fenced(c);
    gr_barrier(c);
    if (gr_comm_rank(c) == 0) CHECK(gr_remove_tree(dir) == GR_OK, "clean up");
    gr_comm_finalize(&c);
    return check_result();
}
