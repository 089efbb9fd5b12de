/* Saving 2 GiB of training state: the checkpoint writer, everything on disk when it returns, against the same bytes
 * written with O_DIRECT and fsync, one file a rank, in the same directory.
 */
/*ROW
id: C22
title: ckpt: a state of 2 GiB, new files, on disk at the end
unit: GB/s
ceiling: own
for: ranks 1 2 4
case: $ranks ranks | | np=$ranks warm=0
bar: *save | ceiling | 0.80 | 0.95
*/
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
    t0 = bench_now();
    GR_TRY(gr_ckpt_save(d, 1, s->piece, TENSORS, "{}", 1));
    gr_barrier(s->c);
    bench_time("save", bench_now() - t0, STATE_BYTES, 0);
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

static gr_status ceiling(void *user)
{
    gr_status st = GR_OK;
    state    *s = user;
    char      path[GR_PATH_MAX];
    double    t0;

    GR_TRY(gr_path(path, "%s/raw-%d", s->dir, gr_comm_rank(s->c)));
    gr_barrier(s->c);
    t0 = bench_now();
    GR_TRY(gr_agree(s->c, write_raw(s, path)));
    bench_time("save", bench_now() - t0, STATE_BYTES, 0);
    GR_TRY(gr_remove_tree(path));
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

    GR_TRY(gr_path(path, "%s/save-%lld", s->dir, (long long)s->turn));
    memset(s->data, 0, s->bytes);
    GR_TRY(state_load(s, path, &seconds));
    state_compare(s);
    if (gr_comm_rank(s->c) == 0) GR_TRY(gr_remove_tree(path));
out:
    return st;
}

int main(int argc, char **argv)
{
    state     s = {0};
    gr_status st = state_open(&s, &argc, &argv);

    bench_name("graft checkpoint");
    if (st == GR_OK) st = bench_serve(&(bench){.comm = s.c, .run = run, .ceiling = ceiling, .check = check, .user = &s});
    state_close(&s);
    return gr_exit_code(st);
}
