/* Loading a checkpoint of four ranks on another number of them, nothing of it in memory: verified, every row where it
 * is wanted; against the same files read with O_DIRECT, each rank a share of them.
 *
 *     row_reshard save | load
 */
/*ROW
id: C23
title: ckpt-reshard: 2 GiB saved on 4 ranks, loaded cold
unit: GB/s
ceiling: own
setup: 4 | save
for: ranks 1 2 8
case: on $ranks ranks | load | np=$ranks warm=0
bar: * | ceiling | 0.6 | 0.9
*/
#include "tests/bench/state.h"

enum { FILES = 16 };

typedef struct files {
    int      n, fd[FILES];
    uint64_t bytes[FILES];
} files;

/* The shards, opened with `flags`. */
static gr_status open_files(files *f, const state *s, int flags)
{
    gr_status st = GR_OK;
    char      dir[GR_PATH_MAX], path[GR_PATH_MAX], **name = NULL;
    int64_t   n = 0;

    f->n = 0;
    GR_TRY(gr_path(dir, "%s/reshard/step-00000001", s->dir));
    GR_TRY(gr_list(dir, &name, &n));
    for (int64_t i = 0; i < n; i++) {
        if (strncmp(name[i], "shard-", 6)) continue;
        GR_CHECK(f->n < FILES, GR_ERR_INPUT, "%s: more than %d shards", dir, FILES);
        GR_TRY(gr_path(path, "%s/%s", dir, name[i]));
        f->fd[f->n] = open(path, O_RDONLY | flags);
        GR_CHECK(f->fd[f->n] >= 0, GR_ERR_INPUT, "%s: %s", path, strerror(errno));
        f->bytes[f->n] = (uint64_t)lseek(f->fd[f->n], 0, SEEK_END);
        f->n++;
    }
out:
    gr_names_free(&name, n);
    return st;
}

static void close_files(files *f)
{
    for (int i = 0; i < f->n; i++) close(f->fd[i]);
}

/* Nothing of the files stays in the page cache; they are on disk, so nothing is lost. */
static gr_status forget(state *s)
{
    gr_status st = GR_OK;
    files     f = {0};

    gr_barrier(s->c);
    GR_TRY(open_files(&f, s, 0));
    for (int i = 0; i < f.n; i++)
        GR_CHECK(posix_fadvise(f.fd[i], 0, 0, POSIX_FADV_DONTNEED) == 0, GR_ERR_IO, "posix_fadvise failed");
out:
    close_files(&f);
    gr_barrier(s->c);
    return gr_agree(s->c, st);
}

static gr_status run(void *user)
{
    gr_status st = GR_OK;
    state    *s = user;
    char      path[GR_PATH_MAX];
    double    seconds = 0;

    GR_TRY(gr_path(path, "%s/reshard", s->dir));
    GR_TRY(forget(s));
    GR_TRY(state_load(s, path, &seconds));
    bench_time("load", seconds, STATE_BYTES, 0);
out:
    return st;
}

/* This rank's share of the files, piece by piece. */
static gr_status read_raw(const state *s, const files *f)
{
    gr_status st = GR_OK;
    int64_t   first, count, at = 0;
    char     *buffer = NULL, *page;

    GR_TRY(gr_alloc(&buffer, PIECE + PAGE, 1, "buffer"));
    page = buffer + PAGE - (uintptr_t)buffer % PAGE;
    for (int i = 0; i < f->n; i++) at += (int64_t)((f->bytes[i] + PIECE - 1) / PIECE);
    gr_share(at, gr_comm_rank(s->c), gr_comm_size(s->c), &first, &count);
    at = 0;
    for (int i = 0; i < f->n; i++)
        for (uint64_t from = 0; from < f->bytes[i]; from += PIECE, at++)
            if (at >= first && at < first + count)
                GR_CHECK(pread(f->fd[i], page, PIECE, (off_t)from) > 0, GR_ERR_IO, "pread: %s", strerror(errno));
out:
    gr_free(&buffer);
    return st;
}

static gr_status ceiling(void *user)
{
    gr_status st = GR_OK;
    state    *s = user;
    files     f = {0};
    double    t0;

    GR_TRY(forget(s));
    GR_TRY(gr_agree(s->c, open_files(&f, s, O_DIRECT)));
    t0 = gr_now();
    GR_TRY(gr_agree(s->c, read_raw(s, &f)));
    bench_time("load", gr_now() - t0, STATE_BYTES, 0);
out:
    close_files(&f);
    return st;
}

static gr_status check(void *user)
{
    state_compare(user);
    return GR_OK;
}

static gr_status save(state *s)
{
    gr_status    st = GR_OK;
    gr_ckpt_dir *d = NULL;
    char         path[GR_PATH_MAX];

    GR_TRY(gr_path(path, "%s/reshard", s->dir));
    GR_TRY(gr_ckpt_dir_open(&d, s->c, path));
    GR_TRY(gr_ckpt_save(d, 1, s->piece, TENSORS, "{}", 1));
out:
    gr_ckpt_dir_close(&d);
    return st;
}

int main(int argc, char **argv)
{
    state     s = {0};
    gr_status st = state_open(&s, &argc, &argv);

    bench_name("graft checkpoint");
    if (st == GR_OK && argc == 2 && !strcmp(argv[1], "save"))
        st = save(&s);
    else if (st == GR_OK)
        st = bench_serve(&(bench){.comm = s.c, .run = run, .ceiling = ceiling, .check = check, .user = &s});
    state_close(&s);
    return gr_exit_code(st);
}
