/* A training run in miniature, for the fault tests: exact arithmetic, so the final hash is the same on any number of
 * ranks and through any number of restarts.
 *
 *     drive_checkpoint DIR STEPS EVERY KEEP ROWS [alone] [async] [wait]
 *
 * Resumes from the newest checkpoint in DIR, goes on to STEPS, saves every EVERY steps and at the end. `alone`: one
 * process without MPI. `async`: written beside the steps. `wait`: after the start, print "ready" and wait for a line.
 * Prints "resumed S", "saved S", "damaged S" (read back so), "failed S", "final HASH"; exits with the code of the last
 * save.
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

    GR_TRY(gr_ckpt_open_newest(&ck, d, p, n));
    if (!ck) goto out;
    for (int64_t i = 0; i < n && st == GR_OK; i++) st = gr_ckpt_fits(ck, &p[i]);
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

typedef struct options {
    int64_t     steps, every;
    int         keep;
    bool        alone, async, wait;
    const char *path;
} options;

static void say(const trainer *t, const char *what, int64_t step)
{
    if (gr_comm_rank(t->c) == 0) printf("%s %" PRId64 "\n", what, step);
    fflush(stdout);
}

/* All ranks: is there something to publish or to settle? */
static bool all_written(const trainer *t, const gr_ckpt_dir *d)
{
    int64_t busy = !gr_ckpt_written(d);

    if (gr_ckpt_phase_of(d) == GR_CKPT_IDLE) return false;
    gr_max_i64(t->c, &busy, 1);
    return !busy;
}

/* The next phase of what is under way: *saved is the outcome of step `step`. */
static gr_status advance(const trainer *t, gr_ckpt_dir *d, int64_t step, gr_status *saved)
{
    gr_status st = GR_OK;

    if (gr_ckpt_phase_of(d) == GR_CKPT_WRITING) {
        st = *saved = gr_ckpt_publish(d);
        say(t, st == GR_OK ? "saved" : "failed", step);
    } else if (gr_ckpt_phase_of(d) == GR_CKPT_READING) {
        st = gr_ckpt_settle(d);
        if (st != GR_OK) *saved = st;
        if (st != GR_OK) say(t, "damaged", step);
    }
    return st == GR_ERR_SAVE ? GR_OK : st;
}

/* Whatever is under way to its end. */
static gr_status land(const trainer *t, gr_ckpt_dir *d, int64_t step, gr_status *saved)
{
    gr_status st = GR_OK;

    while (st == GR_OK && gr_ckpt_phase_of(d) != GR_CKPT_IDLE) st = advance(t, d, step, saved);
    return st;
}

static gr_status begin(trainer *t, gr_ckpt_dir *d, const options *o, gr_status *saved)
{
    gr_status     st = GR_OK;
    gr_ckpt_piece p[N];
    char          meta[64];

    snprintf(meta, sizeof meta, "{\"cursor\":%" PRId64 "}", t->step * 1000);
    if (o->async) {
        *saved = gr_ckpt_begin(d, t->step, p, pieces(t, p), meta, o->keep);
        if (*saved == GR_ERR_SAVE) say(t, "failed", t->step);
        if (*saved == GR_OK && gr_ckpt_phase_of(d) == GR_CKPT_IDLE) say(t, "saved", t->step); /* it was there */
    } else {
        *saved = gr_ckpt_save(d, t->step, p, pieces(t, p), meta, o->keep);
        say(t, *saved == GR_OK ? "saved" : "failed", t->step);
    }
    if (*saved != GR_OK && *saved != GR_ERR_SAVE) st = *saved;
    return st;
}

static void wait_for_line(const trainer *t)
{
    int c = 0;

    say(t, "ready", t->step);
    while (c != EOF && c != '\n') c = getchar();
}

static gr_status run(trainer *t, const options *o)
{
    gr_status    st = GR_OK, saved = GR_OK;
    gr_ckpt_dir *d = NULL;
    int64_t      saving = 0;

    GR_TRY(gr_agree(t->c, start(t)));
    GR_TRY(gr_ckpt_dir_open(&d, t->c, o->path));
    GR_TRY(resume(t, d));
    if (o->wait) wait_for_line(t);
    while (t->step < o->steps) {
        train(t);
        if (all_written(t, d)) GR_TRY(advance(t, d, saving, &saved));
        if (t->step % o->every && t->step < o->steps) continue;
        GR_TRY(land(t, d, saving, &saved));
        saving = t->step;
        GR_TRY(begin(t, d, o, &saved));
    }
    GR_TRY(land(t, d, saving, &saved));
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

static bool has(int argc, char **argv, const char *word)
{
    for (int i = 6; i < argc; i++)
        if (!strcmp(argv[i], word)) return true;
    return false;
}

int main(int argc, char **argv)
{
    trainer   t = {0};
    gr_status st;
    options o = {.alone = has(argc, argv, "alone"), .async = has(argc, argv, "async"), .wait = has(argc, argv, "wait")};

    if (argc != 6 + o.alone + o.async + o.wait) {
        fprintf(stderr, "usage: drive_checkpoint DIR STEPS EVERY KEEP ROWS [alone] [async] [wait]\n");
        return 2;
    }
    o.path = argv[1];
    o.steps = strtoll(argv[2], NULL, 10);
    o.every = strtoll(argv[3], NULL, 10);
    o.keep = (int)strtol(argv[4], NULL, 10);
    t.rows = strtoll(argv[5], NULL, 10);
    if (!o.alone && gr_comm_init(&t.c, &argc, &argv) != GR_OK) return 1;
    gr_log_identity("drive_checkpoint", gr_comm_rank(t.c));
    st = run(&t, &o);
    if (!o.alone) gr_comm_finalize(&t.c);
    fflush(stdout);
    if (gr_mem_live() != 0) {
        fprintf(stderr, "%lld blocks leaked\n", (long long)gr_mem_live());
        return 1;
    }
    return gr_exit_code(st);
}
