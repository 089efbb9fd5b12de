/* A training run in miniature, for the fault tests: exact arithmetic, so the final hash is the same on any number of
 * ranks and through any number of restarts.
 *
 *     drive_checkpoint DIR STEPS EVERY KEEP ROWS [alone]
 *
 * Resumes from the newest checkpoint in DIR, goes on to STEPS, saves every EVERY steps and at the end. `alone`: one
 * process without MPI. Prints "resumed S", "saved S", "failed S", "final HASH"; exits with the code of the last save.
 */
#include "comm/comm.h"
#include "store/checkpoint.h"
#include "util/mem.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLS = 5, N = 4 };

typedef struct trainer {
    gr_comm       *c;
    int64_t        rows, first, count; /* rows of all, and of this rank */
    int64_t        step;
    uint64_t      *theta, *adam, factor; /* [count, COLS], [count], scalar (of the last rank) */
    unsigned char *flag;                 /* [count], of rank 0 only: [rows] */
} trainer;

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static bool is_last(const trainer *t)
{
    return gr_comm_rank(t->c) == gr_comm_size(t->c) - 1;
}

static int64_t pieces(const trainer *t, gr_ckpt_piece p[N])
{
    const gr_ckpt_piece all[N] = {
        {"model.theta", GR_U64, 2, {t->rows, COLS}, t->first, t->count, t->theta},
        {"adam", GR_U64, 1, {t->rows}, t->first, t->count, t->adam},
        {"factor", GR_U64, 0, {0}, 0, is_last(t), (void *)(uintptr_t)&t->factor},
        {"flag", GR_U8, 1, {t->rows}, 0, gr_comm_rank(t->c) == 0 ? t->rows : 0, t->flag},
    };

    memcpy(p, all, sizeof all);
    return N;
}

static gr_status start(trainer *t)
{
    gr_status st = GR_OK;

    gr_share(t->rows, gr_comm_rank(t->c), gr_comm_size(t->c), &t->first, &t->count);
    GR_TRY(gr_alloc(&t->theta, (uint64_t)(t->count * COLS), sizeof *t->theta, "theta"));
    GR_TRY(gr_alloc(&t->adam, (uint64_t)t->count, sizeof *t->adam, "adam"));
    GR_TRY(gr_alloc(&t->flag, (uint64_t)t->rows, 1, "flag"));
    for (int64_t e = 0; e < t->count * COLS; e++) t->theta[e] = mix((uint64_t)(t->first * COLS + e));
    t->factor = 3;
out:
    return st;
}

static gr_status resume(trainer *t, gr_ckpt_dir *d)
{
    gr_status     st = GR_OK;
    gr_ckpt      *ck = NULL;
    gr_ckpt_piece p[N];
    const int64_t n = pieces(t, p);

    GR_TRY(gr_ckpt_open_newest(&ck, d));
    if (!ck) goto out;
    for (int64_t i = 0; i < n && st == GR_OK; i++) st = gr_ckpt_read(ck, &p[i]);
    GR_TRY(gr_agree(t->c, st));
    t->step = gr_ckpt_step(ck);
    if (gr_comm_rank(t->c) == 0) printf("resumed %" PRId64 " meta %s\n", t->step, gr_ckpt_meta(ck));
out:
    gr_ckpt_close(&ck);
    return st;
}

static void train(trainer *t)
{
    const uint64_t s = (uint64_t)++t->step;

    for (int64_t r = 0; r < t->count; r++) {
        for (int64_t k = 0; k < COLS; k++) {
            const uint64_t e = (uint64_t)((t->first + r) * COLS + k);
            t->theta[r * COLS + k] = t->theta[r * COLS + k] * 0x9E3779B97F4A7C15u + mix(e ^ s << 40);
            t->adam[r] += t->theta[r * COLS + k] >> 7;
        }
    }
    t->factor = t->factor * 5 + s;
    for (int64_t r = 0; r < t->rows; r++) t->flag[r] = (unsigned char)(t->flag[r] * 3 + s + (uint64_t)r);
}

static int64_t hash(const trainer *t)
{
    int64_t sum = 0;

    for (int64_t e = 0; e < t->count * COLS; e++)
        sum += (int64_t)(mix(t->theta[e] + (uint64_t)(t->first * COLS + e)) >> 24);
    for (int64_t r = 0; r < t->count; r++) sum += (int64_t)(mix(t->adam[r] + (uint64_t)(t->first + r) * 977) >> 24);
    for (int64_t r = 0; r < t->rows && gr_comm_rank(t->c) == 0; r++)
        sum += (int64_t)(mix((uint64_t)r << 8 | t->flag[r]) >> 24);
    if (is_last(t)) sum += (int64_t)(mix(t->factor) >> 24);
    gr_sum_i64(t->c, &sum, 1);
    return sum;
}

static gr_status run(trainer *t, const char *path, int64_t steps, int64_t every, int keep)
{
    gr_status     st = GR_OK, saved = GR_OK;
    gr_ckpt_dir  *d = NULL;
    gr_ckpt_piece p[N];
    char          meta[64];

    GR_TRY(gr_agree(t->c, start(t)));
    GR_TRY(gr_ckpt_dir_open(&d, t->c, path));
    GR_TRY(resume(t, d));
    while (t->step < steps) {
        train(t);
        if (t->step % every && t->step < steps) continue;
        snprintf(meta, sizeof meta, "{\"cursor\":%" PRId64 "}", t->step * 1000);
        saved = gr_ckpt_save(d, t->step, p, pieces(t, p), meta, keep);
        if (saved != GR_OK && saved != GR_ERR_SAVE) GR_TRY(saved);
        if (gr_comm_rank(t->c) == 0) printf("%s %" PRId64 "\n", saved == GR_OK ? "saved" : "failed", t->step);
        fflush(stdout);
    }
    st = saved;
    if (st == GR_OK) {
        const int64_t h = hash(t);
        if (gr_comm_rank(t->c) == 0) printf("final %016" PRIx64 "\n", h);
    }
out:
    gr_barrier(t->c); /* nobody leaves the directory while another rank is in it */
    gr_ckpt_dir_close(&d);
    gr_free(&t->theta);
    gr_free(&t->adam);
    gr_free(&t->flag);
    return st;
}

int main(int argc, char **argv)
{
    trainer   t = {0};
    gr_status st;
    const int alone = argc == 7 && !strcmp(argv[6], "alone");

    if (argc != 6 + alone) {
        fprintf(stderr, "usage: drive_checkpoint DIR STEPS EVERY KEEP ROWS [alone]\n");
        return 2;
    }
    if (!alone && gr_comm_init(&t.c, &argc, &argv) != GR_OK) return 1;
    gr_log_identity("drive_checkpoint", gr_comm_rank(t.c));
    t.rows = strtoll(argv[5], NULL, 10);
    st = run(&t, argv[1], strtoll(argv[2], NULL, 10), strtoll(argv[3], NULL, 10), (int)strtol(argv[4], NULL, 10));
    if (!alone) gr_comm_finalize(&t.c);
    fflush(stdout);
    if (gr_mem_live() != 0) {
        fprintf(stderr, "%lld blocks leaked\n", (long long)gr_mem_live());
        return 1;
    }
    return gr_exit_code(st);
}
