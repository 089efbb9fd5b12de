#include "store/checkpoint.h"
#include "store/checkpoint_room.h"
#include "store/lock.h"
#include "util/fs.h"
#include "util/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- names ----------------------------------------------------------------------------------- */

gr_status gr_ckpt_step_path(char dst[GR_PATH_MAX], const char *dir, int64_t step)
{
    return gr_path(dst, "%s/step-%08" PRId64, dir, step);
}

/* The step in PREFIX00001200; -1 when `name` is not written so. */
static int64_t step_of(const char *name, const char *prefix)
{
    const size_t n = strlen(prefix);
    int64_t      step = -1;
    char         again[64];

    if (strncmp(name, prefix, n) != 0 || sscanf(name + n, "%18" SCNd64, &step) != 1 || step < 0) return -1;
    snprintf(again, sizeof again, "%08" PRId64, step);
    return strcmp(name + n, again) ? -1 : step;
}

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

gr_status gr_ckpt_list(const char *path, int64_t **out, int64_t *out_n)
{
    gr_status st = GR_OK;
    char    **name = NULL;
    int64_t   n_name = 0, *step = NULL, n = 0;

    GR_TRY(gr_list(path, &name, &n_name));
    GR_TRY(gr_alloc(&step, (uint64_t)n_name, sizeof *step, "list of checkpoints"));
    for (int64_t i = 0; i < n_name; i++)
        if (step_of(name[i], "step-") >= 0) step[n++] = step_of(name[i], "step-");
    qsort(step, (size_t)n, sizeof *step, by_value);
    *out = step;
    *out_n = n;
    step = NULL;
out:
    gr_free(&step);
    gr_names_free(&name, n_name);
    return st;
}

gr_status gr_ckpt_rename(const gr_ckpt_dir *d, int64_t step, const char *prefix, char to[GR_PATH_MAX])
{
    gr_status st = GR_OK;
    char      from[GR_PATH_MAX];
    int       again = 0;

    GR_TRY(gr_ckpt_step_path(from, d->path, step));
    GR_TRY(gr_path(to, "%s/%sstep-%08" PRId64 "-%s", d->path, prefix, step, d->attempt));
    while (gr_exists(to)) /* the second time in one attempt */
        GR_TRY(gr_path(to, "%s/%sstep-%08" PRId64 "-%s-%d", d->path, prefix, step, d->attempt, ++again));
    GR_TRY(gr_publish(from, to));
    gr_ckpt_mark(d, step, false);
out:
    return st;
}

/* ---- what has been read back -------------------------------------------------------------------- */

/* An empty file beside the checkpoint, which never changes. Not synced: what is lost is only read again, or kept
 * longer. */
static bool mark_path(char dst[GR_PATH_MAX], const gr_ckpt_dir *d, int64_t step)
{
    return gr_path(dst, "%s/.verified-%08" PRId64, d->path, step) == GR_OK;
}

void gr_ckpt_mark(const gr_ckpt_dir *d, int64_t step, bool verified)
{
    char path[GR_PATH_MAX];
    int  fd;

    if (!mark_path(path, d, step)) return;
    if (!verified) {
        unlink(path); /* mostly there is none; one that stays is removed with garbage */
        return;
    }
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) gr_log("%s: %s: older checkpoints stay longer", path, strerror(errno));
    if (fd >= 0) close(fd);
}

/* All but those that the rule keeps go. Each leaves its name first, so that no half-deleted one looks like a
 * checkpoint. A failure here costs disk space, not data: it is logged, and the save stands. */
bool gr_ckpt_retain(const gr_ckpt_dir *d, int keep)
{
    int64_t *step = NULL, n = 0;
    char     path[GR_PATH_MAX];

    if (gr_ckpt_list(d->path, &step, &n) != GR_OK) gr_log("%s: old checkpoints stay", d->path);
    while (n > 0 && keep > 0) keep -= mark_path(path, d, step[--n]) && gr_exists(path);
    for (int64_t i = 0; i < n; i++)
        if (gr_ckpt_rename(d, step[i], ".del-", path) != GR_OK)
            gr_log("%s: step %" PRId64 " could not be deleted", d->path, step[i]);
    gr_free(&step);
    return n > 0;
}

/* ---- the directory ----------------------------------------------------------------------------- */

/* The attempt that owns the directory, in counted memory; "" when there was none. */
static gr_status read_attempt(const gr_ckpt_dir *d, char **attempt)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];
    uint64_t  n;

    GR_TRY(gr_path(path, "%s/.generation", d->path));
    if (gr_exists(path))
        GR_TRY(gr_read_file(path, sizeof d->attempt, attempt, &n));
    else
        GR_TRY(gr_strdup(attempt, ""));
out:
    return st;
}

/* Under the lock: a new generation. Whoever outlives his lock (a network split, a file system that forgets locks)
 * finds another attempt here before he publishes, and gives up. */
static gr_status new_attempt(gr_ckpt_dir *d)
{
    gr_status       st = GR_OK;
    char           *old = NULL, path[GR_PATH_MAX];
    int64_t         generation = 0;
    struct timespec now = {0};

    clock_gettime(CLOCK_REALTIME, &now);
    GR_TRY(read_attempt(d, &old));
    if (sscanf(old, "%18" SCNd64, &generation) != 1 || generation < 0) generation = 0;
    snprintf(d->attempt, sizeof d->attempt, "%" PRId64 "-%ld-%" PRIx64, generation + 1, (long)getpid(),
             (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
    GR_TRY(gr_path(path, "%s/.generation", d->path));
    GR_TRY(gr_write_file(path, d->attempt, strlen(d->attempt)));
out:
    gr_free(&old);
    return st;
}

/* [rank 0] Take the directory, and say so in the lock. */
static gr_status take(gr_ckpt_dir *d)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX], note[80];

    GR_TRY(gr_path(path, "%s/.lock", d->path));
    GR_TRY(gr_lock_take(&d->lock, path));
    GR_TRY(new_attempt(d));
    snprintf(note, sizeof note, "attempt %s", d->attempt);
    GR_TRY(gr_lock_sign(d->lock, path, note));
out:
    return st;
}

gr_status gr_ckpt_still_mine(const gr_ckpt_dir *d)
{
    gr_status st = GR_OK;
    char     *attempt = NULL;

    GR_TRY(read_attempt(d, &attempt));
    GR_CHECK(!strcmp(attempt, d->attempt), GR_ERR_IO, "%s: attempt %.60s has taken over from %s", d->path, attempt,
             d->attempt);
out:
    gr_free(&attempt);
    return st;
}

/* A mark whose checkpoint is gone must not speak for the next one of that number. */
static bool stale_mark(const gr_ckpt_dir *d, const char *name)
{
    const int64_t step = step_of(name, ".verified-");
    char          path[GR_PATH_MAX];

    return step >= 0 && gr_ckpt_step_path(path, d->path, step) == GR_OK && !gr_exists(path);
}

static bool leaving(const gr_ckpt_dir *d, const char *name)
{
    (void)d;
    return !strncmp(name, ".del-", 5);
}

static bool garbage(const gr_ckpt_dir *d, const char *name)
{
    return leaving(d, name) || !strncmp(name, ".tmp-", 5) || stale_mark(d, name);
}

/* A zombie may still be writing there: what cannot be removed stays for the next run. */
static gr_status remove_all(const gr_ckpt_dir *d, bool (*goes)(const gr_ckpt_dir *d, const char *name))
{
    gr_status st = GR_OK;
    char    **name = NULL, path[GR_PATH_MAX];
    int64_t   n = 0;

    GR_TRY(gr_list(d->path, &name, &n));
    for (int64_t i = 0; i < n; i++) {
        if (!goes(d, name[i])) continue;
        GR_TRY(gr_path(path, "%s/%s", d->path, name[i]));
        if (gr_remove_tree(path) != GR_OK) gr_log("%s: left behind", path);
    }
out:
    gr_names_free(&name, n);
    return st;
}

gr_status gr_ckpt_delete_job(void *user)
{
    remove_all(user, leaving); /* what fails has been said, and is tried again by the next run */
    return GR_OK;
}

gr_status gr_ckpt_dir_open(gr_ckpt_dir **out, const gr_comm *c, const char *path)
{
    gr_status    st = GR_OK;
    gr_ckpt_dir *d = NULL;

    st = gr_alloc(&d, 1, sizeof *d, "checkpoint directory");
    if (st == GR_OK) {
        d->c = c;
        d->lock = -1;
        st = gr_path(d->path, "%s", path);
    }
    if (gr_comm_rank(c) == 0) {
        if (st == GR_OK) st = gr_mkdirs(path);
        if (st == GR_OK) st = take(d);
        if (st == GR_OK) st = remove_all(d, garbage); /* what dead attempts left */
    }
    GR_TRY(gr_agree(c, st));
    gr_bcast(c, d->attempt, sizeof d->attempt, 0);
    *out = d;
    d = NULL;
out:
    gr_ckpt_dir_close(&d);
    return st;
}

void gr_ckpt_dir_close(gr_ckpt_dir **d)
{
    if (!*d) return;
    if (!gr_ckpt_flight_close(*d)) return; /* a call that does not return holds on to it all; the process ends anyway */
    gr_lock_close(&(*d)->lock);
    gr_free(&(*d)->stage);
    gr_free(d);
}
