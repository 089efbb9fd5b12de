/* Saving 2 GiB of training state: the checkpoint writer, everything on disk when it returns, against the same bytes
 * written with O_DIRECT and fsync, one file a rank, in the same directory. And what saving beside the training costs
 * it.
 *
 *     row_ckpt save | stall
 */
/*ROW
id: C22
title: ckpt: a state of 2 GiB, new files, on disk at the end
unit: GB/s
ceiling: own
case: 1 rank | save | np=1 warm=0
case: 2 ranks | save | np=2 warm=0
case: 4 ranks | save | np=4 warm=0
case: 2 ranks, async: % of a step | stall | np=2 warm=0 repeats=3
bar: *write | ceiling | 0.80 | 0.95
bar: *blocked | most | 5 | 1
*/
#include "kernels/backend.h"
#include "tests/bench/state.h"

static gr_status run(void *user)
{
    gr_status    st = GR_OK;
    state       *s = user;
    gr_ckpt_dir *d = NULL;
    char         path[GR_PATH_MAX];
    double       t0;

    if (s->turn > 0) {
        GR_TRY(gr_path(path, "%s/save-%lld", s->dir, (long long)s->turn));
        if (gr_comm_rank(s->c) == 0) GR_TRY(gr_remove_tree(path));
    }
    s->turn++;
    GR_TRY(gr_path(path, "%s/save-%lld", s->dir, (long long)s->turn));
    GR_TRY(gr_ckpt_dir_open(&d, s->c, path));
    gr_barrier(s->c);
    t0 = gr_now();
    GR_TRY(gr_ckpt_save(d, 1, s->piece, TENSORS, "{}", 1));
    gr_barrier(s->c);
    t0 = gr_now() - t0;
    bench_time("write", gr_ckpt_last(d)->seconds, STATE_BYTES, 0);
    bench_time("save", t0, STATE_BYTES, 0);
out:
    gr_ckpt_dir_close(&d);
    return st;
}

static gr_status write_raw(const state *s, const char *path)
{
    gr_status st = GR_OK;
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT, 0644);

    GR_CHECK(fd >= 0, GR_ERR_IO, "%s: cannot be opened for direct writing: %s", path, strerror(errno));
    for (uint64_t at = 0; at < s->bytes; at += PIECE)
        GR_TRY(gr_pwrite_all(fd, s->data + at, s->bytes - at < PIECE ? s->bytes - at : PIECE, at, path));
    GR_CHECK(fsync(fd) == 0, GR_ERR_IO, "%s: fsync: %s", path, strerror(errno));
out:
    if (fd >= 0) close(fd);
    return st;
}

/* Back into the memory it came from. */
static gr_status read_raw(const state *s, const char *path)
{
    gr_status st = GR_OK;
    const int fd = open(path, O_RDONLY | O_DIRECT);

    GR_CHECK(fd >= 0, GR_ERR_IO, "%s: cannot be opened for direct reading: %s", path, strerror(errno));
    for (uint64_t at = 0; at < s->bytes; at += PIECE)
        GR_TRY(gr_pread_all(fd, s->data + at, s->bytes - at < PIECE ? s->bytes - at : PIECE, at, path));
out:
    if (fd >= 0) close(fd);
    return st;
}

static gr_status ceiling(void *user)
{
    gr_status st = GR_OK;
    state    *s = user;
    char      path[GR_PATH_MAX];
    double    t0, t1;

    GR_TRY(gr_path(path, "%s/raw-%d", s->dir, gr_comm_rank(s->c)));
    gr_barrier(s->c);
    t0 = gr_now();
    GR_TRY(gr_agree(s->c, write_raw(s, path)));
    t1 = gr_now();
    GR_TRY(gr_agree(s->c, read_raw(s, path)));
    bench_time("write", t1 - t0, STATE_BYTES, 0);
    bench_time("save", gr_now() - t0, STATE_BYTES, 0);
    GR_TRY(gr_remove_tree(path));
out:
    return st;
}

/* ---- beside the training ---- */

enum { M = 512, K = 576, N = 1536, MANY = 30 };

/* What a step of configs/smollm2 computes: SmolLM2-135M, whose state is about this large, on 2,048 tokens, 1.76 TFLOP
 * shared by the ranks. */
static const double STEP_FLOP = 1.76e12;

typedef struct work {
    const gr_ops *ops;
    gr_tensor     a, b, c;
    gr_ckpt_dir  *d;
    int64_t       turn;
} work;

static gr_status work_open(work *w)
{
    gr_status st = GR_OK;
    char      note[160];

    GR_TRY(gr_backend_open("cpu", 1, &w->ops, note, sizeof note));
    w->a = gr_view2(bench_floats(M * K), GR_F32, M, K);
    w->b = gr_view2(bench_floats(N * K), GR_F32, N, K);
    w->c = gr_view2(bench_floats(M * N), GR_F32, M, N);
    bench_fill(w->a.data, M * K, 1, -1, 1);
    bench_fill(w->b.data, N * K, 2, -1, 1);
out:
    return st;
}

static void work_step(const work *w, gr_comm *c)
{
    const int times = (int)(STEP_FLOP / (2.0 * M * N * K) / gr_comm_size(c));

    for (int i = 0; i < times; i++) w->ops->gemm(w->c, w->a, false, w->b, true, 1.0f, 0.0f, NULL);
    gr_barrier(c);
}

/* What of a save the training waits for. */
static gr_status blocked_by(gr_status (*call)(gr_ckpt_dir *), gr_ckpt_dir *d, double *seconds)
{
    const double    t0 = gr_now();
    const gr_status st = call(d);

    *seconds += gr_now() - t0;
    return st;
}

/* Steps until the save is published and read back; `steps` is how many that took. */
static gr_status work_while_saving(const work *w, gr_comm *c, int64_t *steps, double *blocked)
{
    gr_status st = GR_OK;

    for (*steps = 0; gr_ckpt_phase_of(w->d) != GR_CKPT_IDLE; (*steps)++) {
        const bool writing = gr_ckpt_phase_of(w->d) == GR_CKPT_WRITING;
        int64_t    busy = !gr_ckpt_written(w->d);

        gr_sum_i64(c, &busy, 1);
        GR_CHECK(*steps < MANY, GR_ERR_IO, "not saved after %d steps", MANY);
        if (!busy) GR_TRY(blocked_by(writing ? gr_ckpt_publish : gr_ckpt_settle, w->d, blocked));
        work_step(w, c);
    }
out:
    return st;
}

/* The first save of a run allocates the memory of the copy; it is not timed. */
static gr_status stall_open(work *w, state *s)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];

    GR_TRY(work_open(w));
    GR_TRY(gr_path(path, "%s/stall", s->dir));
    if (gr_comm_rank(s->c) == 0) GR_TRY(gr_remove_tree(path));
    GR_TRY(gr_ckpt_dir_open(&w->d, s->c, path));
    GR_TRY(gr_ckpt_begin(w->d, ++w->turn, s->piece, TENSORS, "{}", 1));
    GR_TRY(gr_ckpt_publish(w->d));
    GR_TRY(gr_ckpt_settle(w->d));
    work_step(w, s->c);
out:
    return st;
}

static work beside;

/* blocked: the seconds in begin, publish and settle. slowdown: all that a save costs until it is settled, with what the
 * writer thread takes from the steps beside it. */
static gr_status stall(void *user)
{
    gr_status st = GR_OK;
    state    *s = user;
    work     *w = &beside;
    int64_t   steps = 0;
    double    t0, plain, saving, blocked;

    if (!w->d) GR_TRY(stall_open(w, s));
    t0 = gr_now();
    work_step(w, s->c);
    plain = gr_now() - t0;
    t0 = gr_now();
    GR_TRY(gr_ckpt_begin(w->d, ++w->turn, s->piece, TENSORS, "{}", 1));
    blocked = gr_now() - t0;
    GR_TRY(work_while_saving(w, s->c, &steps, &blocked));
    saving = gr_now() - t0;
    bench_number("blocked", 100 * blocked / plain);
    bench_number("slowdown", 100 * (saving - (double)steps * plain) / plain);
out:
    return st;
}

/* The last one saved, read back. */
static gr_status check(void *user)
{
    gr_status st = GR_OK;
    state    *s = user;
    char      path[GR_PATH_MAX];
    double    seconds = 0;

    if (s->turn)
        GR_TRY(gr_path(path, "%s/save-%lld", s->dir, (long long)s->turn));
    else
        GR_TRY(gr_path(path, "%s/stall", s->dir));
    gr_ckpt_dir_close(&beside.d);
    memset(s->data, 0, s->bytes);
    GR_TRY(state_load(s, path, &seconds));
    state_compare(s);
    if (gr_comm_rank(s->c) == 0) GR_TRY(gr_remove_tree(path));
out:
    return st;
}

int main(int argc, char **argv)
{
    state      s = {0};
    gr_status  st = state_open(&s, &argc, &argv);
    const bool async = argc == 2 && !strcmp(argv[1], "stall");

    bench_name("graft checkpoint");
    if (st == GR_OK)
        st = bench_serve(
            &(bench){.comm = s.c, .run = async ? stall : run, .ceiling = ceiling, .check = check, .user = &s});
    gr_ckpt_dir_close(&beside.d);
    state_close(&s);
    return gr_exit_code(st);
}
