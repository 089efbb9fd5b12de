/** @file state.h  A training state to save and load: 2 GiB in sixteen tensors, each rank owning a share of the rows. */
#ifndef GR_TESTS_BENCH_STATE_H
#define GR_TESTS_BENCH_STATE_H
#include "store/checkpoint.h"
#include "tests/bench/bench.h"
#include "util/fs.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { TENSORS = 16, ROWS = 32768, COLS = 1024, PAGE = 4096, PIECE = 16 << 20 };

typedef struct state {
    gr_comm      *c;
    int64_t       first, count; /* rows of this rank, of every tensor */
    char          name[TENSORS][16];
    gr_ckpt_piece piece[TENSORS];
    char         *block, *data; /* data: inside block, where a page begins: O_DIRECT wants that */
    uint64_t      bytes;        /* of this rank */
    char          dir[GR_PATH_MAX];
    int64_t       turn;
} state;

static const double STATE_BYTES = (double)TENSORS * ROWS * COLS * sizeof(float);

static inline float *state_rows(const state *s, int tensor)
{
    return (float *)(void *)s->data + (int64_t)tensor * s->count * COLS;
}

/* What stands in a tensor is a function of the place: any rank can tell whether it read the right thing. */
static inline void state_fill(float *x, int tensor, int64_t first, int64_t count)
{
    bench_fill_part(x, count * COLS, (uint64_t)tensor, (uint64_t)first * COLS, -1, 1);
}

static inline gr_status state_open(state *s, int *argc, char ***argv)
{
    gr_status   st = GR_OK;
    const char *dir = getenv("GR_BENCH_DIR");

    GR_TRY(gr_comm_init(&s->c, argc, argv));
    bench_mute = gr_comm_rank(s->c) != 0;
    GR_TRY(gr_path(s->dir, "%s", dir ? dir : "."));
    gr_share(ROWS, gr_comm_rank(s->c), gr_comm_size(s->c), &s->first, &s->count);
    s->bytes = (uint64_t)s->count * TENSORS * COLS * sizeof(float);
    s->block = bench_memory(s->bytes + PAGE, 1);
    s->data = s->block + PAGE - (uintptr_t)s->block % PAGE;
    for (int i = 0; i < TENSORS; i++) {
        snprintf(s->name[i], sizeof s->name[i], "tensor.%d", i);
        s->piece[i] = (gr_ckpt_piece){s->name[i], GR_F32, 2, {ROWS, COLS}, s->first, s->count, state_rows(s, i)};
        state_fill(state_rows(s, i), i, s->first, s->count);
    }
out:
    return st;
}

static inline void state_close(state *s)
{
    gr_free(&s->block);
    gr_comm_finalize(&s->c);
}

/* The checkpoint in `path`, read into memory; s->data is overwritten. */
static inline gr_status state_load(state *s, const char *path, double *seconds)
{
    gr_status    st = GR_OK, read = GR_OK;
    gr_ckpt_dir *d = NULL;
    gr_ckpt     *ck = NULL;
    double       t0;

    GR_TRY(gr_ckpt_dir_open(&d, s->c, path));
    gr_barrier(s->c);
    t0 = gr_now();
    GR_TRY(gr_ckpt_open_newest(&ck, d, s->piece, TENSORS));
    GR_CHECK(ck, GR_ERR_INPUT, "%s: no checkpoint", path);
    for (int i = 0; i < TENSORS && read == GR_OK; i++) read = gr_ckpt_fits(ck, &s->piece[i]);
    GR_TRY(gr_agree(s->c, read));
    *seconds = gr_now() - t0;
out:
    gr_ckpt_close(&ck);
    gr_barrier(s->c);
    gr_ckpt_dir_close(&d);
    return st;
}

/* Every element is what it was: bitwise, so the error is the number of those that are not. */
static inline void state_compare(state *s)
{
    float  *want = bench_floats(s->count * COLS);
    int64_t wrong = 0;

    for (int i = 0; i < TENSORS; i++) {
        state_fill(want, i, s->first, s->count);
        for (int64_t j = 0; j < s->count * COLS; j++) wrong += state_rows(s, i)[j] != want[j];
    }
    gr_free(&want);
    gr_sum_i64(s->c, &wrong, 1);
    bench_error("bits", (double)wrong, 0);
}
#endif
