/* A save beside the training, in one process: what changes after begin does not reach the file; two saves follow one
 * another; another thread's job and HDF5 reads of this one do not meet; what reads back damaged is set aside and
 * deletes nothing; a save under way is given up at close; the shares of ranks are even. */
/*TEST
np: 1
timeout: 30
*/
#include "store/checkpoint.h"
#include "store/h5.h"
#include "tests/check.h"
#include "util/fs.h"
#include "util/mem.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BIG = 300007, SMALL = 11, N = 3 }; /* BIG: 2.4 MB on pages, with a tail; SMALL: through the page cache */

static char dir[GR_PATH_MAX];

typedef struct state {
    double *big, *small, scalar;
} state;

static void fill(state *s, int64_t step)
{
    for (int i = 0; i < BIG; i++) s->big[i] = (double)i * 0.25 + (double)step;
    for (int i = 0; i < SMALL; i++) s->small[i] = (double)step * i;
    s->scalar = (double)step;
}

static bool holds(const state *s, int64_t step)
{
    bool ok = s->scalar == (double)step;

    for (int i = 0; i < BIG; i++) ok = ok && s->big[i] == (double)i * 0.25 + (double)step;
    for (int i = 0; i < SMALL; i++) ok = ok && s->small[i] == (double)step * i;
    return ok;
}

static int64_t pieces(state *s, gr_ckpt_piece p[N])
{
    const gr_ckpt_piece all[N] = {{"big", GR_F64, 2, {BIG, 1}, 0, BIG, s->big},
                                  {"small", GR_F64, 1, {SMALL}, 0, SMALL, s->small},
                                  {"scalar", GR_F64, 0, {0}, 0, 1, &s->scalar}};

    memcpy(p, all, sizeof all);
    return N;
}

static void state_open(state *s)
{
    CHECK(gr_alloc(&s->big, BIG, sizeof *s->big, "big") == GR_OK && gr_alloc(&s->small, SMALL, 8, "small") == GR_OK,
          "memory");
}

static void state_close(state *s)
{
    gr_free(&s->big);
    gr_free(&s->small);
}

static gr_status begin(gr_ckpt_dir *d, state *s, int64_t step, int keep)
{
    gr_ckpt_piece p[N];

    fill(s, step);
    return gr_ckpt_begin(d, step, p, pieces(s, p), "{}", keep);
}

static gr_status land(gr_ckpt_dir *d)
{
    const gr_status published = gr_ckpt_publish(d), settled = gr_ckpt_settle(d);

    return published != GR_OK ? published : settled;
}

static bool there(const char *name)
{
    char path[GR_PATH_MAX];

    return gr_path(path, "%s/%s", dir, name) == GR_OK && gr_exists(path);
}

/* The newest checkpoint is `step`, in every byte. */
static void newest_is(gr_ckpt_dir *d, int64_t step)
{
    gr_ckpt      *ck = NULL;
    state         s = {0};
    gr_ckpt_piece p[N];

    state_open(&s);
    pieces(&s, p);
    CHECK(gr_ckpt_open_newest(&ck, d, NULL, 0) == GR_OK && ck && gr_ckpt_step(ck) == step, "newest is not %d",
          (int)step);
    for (int i = 0; ck && i < N; i++) CHECK(gr_ckpt_read(ck, &p[i]) == GR_OK, "read");
    CHECK(holds(&s, step), "step %d: other bytes than at begin", (int)step);
    gr_ckpt_close(&ck);
    state_close(&s);
}

static void overwritten_at_once(gr_ckpt_dir *d, state *s)
{
    for (int64_t step = 1; step <= 8; step++) {
        CHECK(begin(d, s, step, 2) == GR_OK, "begin"); /* the one before is published by it */
        fill(s, -step);
        CHECK(gr_ckpt_phase_of(d) == GR_CKPT_WRITING, "a save is under way");
    }
    CHECK(gr_ckpt_publish(d) == GR_OK && gr_ckpt_phase_of(d) == GR_CKPT_READING, "published");
    CHECK(gr_ckpt_last(d)->step == 8 && gr_ckpt_last(d)->bytes > 8 * BIG && gr_ckpt_last(d)->seconds > 0, "told");
    CHECK(there("step-00000008") && !there(".verified-00000008"), "published, and not read back yet");
    CHECK(gr_ckpt_settle(d) == GR_OK && there(".verified-00000008"), "read back");
    CHECK(!there("step-00000006") && !there(".verified-00000006") && there("step-00000007"), "two are kept");
    CHECK(gr_ckpt_publish(d) == GR_OK && gr_ckpt_settle(d) == GR_OK && gr_ckpt_written(d), "nothing is under way");
    newest_is(d, 8);
    CHECK(begin(d, s, 8, 2) == GR_OK && gr_ckpt_phase_of(d) == GR_CKPT_IDLE, "it is there already");
}

/* Waiting for `written` ends, and no wait is needed afterwards. */
static void polled(gr_ckpt_dir *d, state *s)
{
    const struct timespec pause = {0, 1000000};
    int                   turns = 0;

    CHECK(begin(d, s, 9, 2) == GR_OK, "begin");
    for (; !gr_ckpt_written(d) && turns < 20000; turns++) nanosleep(&pause, NULL);
    CHECK(gr_ckpt_written(d) && gr_ckpt_phase_of(d) == GR_CKPT_WRITING, "the writer says when it is done");
    CHECK(land(d) == GR_OK, "land");
    newest_is(d, 9);
}

/* This thread reads and writes HDF5 files while the writer lays out its own. */
static void beside_hdf5(gr_ckpt_dir *d, state *s)
{
    char          path[GR_PATH_MAX];
    const int64_t dim[] = {SMALL};
    double        back[SMALL];

    CHECK(gr_path(path, "%s/other.h5", dir) == GR_OK, "path");
    for (int64_t step = 10; step < 20; step++) {
        CHECK(begin(d, s, step, 2) == GR_OK, "begin");
        for (int i = 0; i < 20; i++) {
            gr_h5 *f = NULL;
            CHECK(gr_h5_create(&f, path, "test") == GR_OK, "create");
            CHECK(gr_h5_write(f, "x", GR_F64, 1, dim, s->small) == GR_OK && gr_h5_commit(&f) == GR_OK, "write");
            CHECK(gr_h5_open(&f, path, "test") == GR_OK, "open");
            CHECK(gr_h5_read(f, "x", GR_F64, 0, SMALL, back) == GR_OK && !memcmp(back, s->small, sizeof back), "read");
            gr_h5_close(&f);
        }
        CHECK(land(d) == GR_OK, "land");
    }
    newest_is(d, 19);
}

/* Flip a bit of the shard of a step. */
static void damage(int64_t step)
{
    char path[GR_PATH_MAX], c = 0;
    int  fd;

    CHECK(gr_path(path, "%s/step-%08lld/shard-00000-of-00001.h5", dir, (long long)step) == GR_OK, "path");
    fd = open(path, O_RDWR);
    CHECK(fd >= 0 && pread(fd, &c, 1, 1 << 20) == 1, "open a shard");
    c ^= 4;
    CHECK(pwrite(fd, &c, 1, 1 << 20) == 1 && !close(fd), "damage a shard");
}

static int64_t count(const char *prefix)
{
    DIR    *list = opendir(dir);
    int64_t n = 0;

    CHECK(list, "list");
    for (struct dirent *e; list && (e = readdir(list));) n += !strncmp(e->d_name, prefix, strlen(prefix));
    if (list) closedir(list);
    return n;
}

/* The disk gives back something else: nothing older is deleted, the next save works, and older ones go when two newer
 * are good. The fault stands for a read that fails; real damage is found by the next run. */
static void damaged(gr_ckpt_dir *d, state *s)
{
    CHECK(there("step-00000018") && there("step-00000019"), "before");
    CHECK(begin(d, s, 20, 2) == GR_OK && gr_ckpt_publish(d) == GR_OK, "publish");
    setenv("GR_FAULT", "ckpt_verify:0", 1);
    CHECK(gr_ckpt_settle(d) == GR_ERR_SAVE, "it reads back damaged, and nobody says so");
    unsetenv("GR_FAULT");
    CHECK(count("bad-step-00000020") == 1 && !there("step-00000020"), "it is set aside");
    CHECK(there("step-00000018") && there("step-00000019"), "older ones were deleted for a damaged one");
    CHECK(begin(d, s, 21, 2) == GR_OK && land(d) == GR_OK, "the next save");
    CHECK(!there("step-00000018") && there("step-00000019") && there("step-00000021"), "two good ones");
}

/* Not read back (the run died before): it does not count. */
static void unverified(gr_ckpt_dir **d, state *s)
{
    gr_ckpt *ck = NULL;

    CHECK(begin(*d, s, 22, 2) == GR_OK && gr_ckpt_publish(*d) == GR_OK, "publish");
    gr_ckpt_dir_close(d);
    CHECK(gr_ckpt_dir_open(d, NULL, dir) == GR_OK && begin(*d, s, 23, 2) == GR_OK && land(*d) == GR_OK, "save");
    CHECK(there("step-00000019") == false && there("step-00000021") && there("step-00000022"),
          "21 and 23 are verified");
    CHECK(begin(*d, s, 24, 3) == GR_OK && land(*d) == GR_OK, "save");
    CHECK(there("step-00000021") && there("step-00000022"), "22 does not count, 21 is the third");
    damage(24); /* after it was read back: found by recovery */
    CHECK(gr_ckpt_open_newest(&ck, *d, NULL, 0) == GR_OK && ck && gr_ckpt_step(ck) == 23, "recovery");
    gr_ckpt_close(&ck);
    CHECK(!there(".verified-00000024"), "what is set aside is not called good");
}

static void given_up(gr_ckpt_dir **d, state *s)
{
    CHECK(begin(*d, s, 30, 2) == GR_OK, "begin");
    gr_ckpt_dir_close(d);
    CHECK(!there("step-00000030") && count(".tmp-step-00000030") == 1, "garbage by design");
    CHECK(gr_ckpt_dir_open(d, NULL, dir) == GR_OK && count(".tmp-") == 0, "the next run removes it");
    newest_is(*d, 23);
}

/* No room on one side of the arithmetic: rows are dealt once each, and nobody gets more than his share and a row. */
static void shares(void)
{
    static const gr_ckpt_piece list[] = {{"embed", GR_F32, 2, {50000, 64}, 0, 50000, NULL},
                                         {"norm", GR_F32, 1, {64}, 0, 64, NULL},
                                         {"one", GR_F32, 2, {1, 4096}, 0, 1, NULL},
                                         {"scalar", GR_F64, 0, {0}, 0, 1, NULL},
                                         {"head", GR_BF16, 2, {777, 640}, 0, 777, NULL}};
    enum { M = sizeof list / sizeof *list, ROW = 16384 };
    static const int64_t row[M] = {256, 4, ROW, 8, 1280};

    for (int size = 1; size < 40; size += size < 6 ? 1 : 11) {
        int64_t next[M] = {0}, total = 0, most = 0;

        for (int i = 0; i < M; i++) total += row[i] * list[i].count;
        for (int rank = 0; rank < size; rank++) {
            gr_ckpt_piece p[M];
            int64_t       mine = 0;

            memcpy(p, list, sizeof list);
            gr_ckpt_deal(p, M, rank, size);
            for (int i = 0; i < M; i++) {
                CHECK(p[i].count == 0 || p[i].first == next[i], "%s: a gap or an overlap", p[i].name);
                next[i] += p[i].count;
                mine += p[i].count * row[i];
            }
            if (mine > most) most = mine;
        }
        for (int i = 0; i < M; i++) CHECK(next[i] == list[i].count, "%s: rows are missing", list[i].name);
        CHECK(most <= total / size + ROW + 1, "%d ranks: one has %lld of %lld bytes", size, (long long)most,
              (long long)total);
    }
}

static volatile sig_atomic_t caught;

static void on_signal(int sig)
{
    (void)sig;
    caught++;
}

/* The writer takes no signals: they are for the thread that trains. */
static void signals(gr_ckpt_dir *d, state *s)
{
    sigset_t one;

    signal(SIGUSR1, on_signal);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    CHECK(begin(d, s, 40, 2) == GR_OK, "begin");
    sigprocmask(SIG_BLOCK, &one, NULL);
    kill(getpid(), SIGUSR1); /* to the process: any thread that does not block it would get it */
    CHECK(land(d) == GR_OK && caught == 0, "the writer took the signal");
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    CHECK(caught == 1, "it waits for this thread");
}

int main(void)
{
    const char  *scratch = getenv("GR_TEST_DIR");
    gr_ckpt_dir *d = NULL;
    state        s = {0};

    CHECK(gr_path(dir, "%s/checkpoint-async", scratch ? scratch : ".") == GR_OK, "directory");
    state_open(&s);
    shares();
    CHECK(gr_ckpt_dir_open(&d, NULL, dir) == GR_OK, "open");
    if (d) {
        overwritten_at_once(d, &s);
        polled(d, &s);
        beside_hdf5(d, &s);
        damaged(d, &s);
        unverified(&d, &s);
        given_up(&d, &s);
        signals(d, &s);
    }
    gr_ckpt_dir_close(&d);
    state_close(&s);
    CHECK(gr_remove_tree(dir) == GR_OK && gr_mem_live() == 0, "clean up");
    return check_result();
}
