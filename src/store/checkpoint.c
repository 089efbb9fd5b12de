#include "store/checkpoint.h"
#include "store/checkpoint_room.h"
#include "store/h5.h"
#include "store/lock.h"
#include "store/manifest.h"
#include "store/seal.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include "util/mem.h"
#include "util/text.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BACK = 16 << 20, /* bytes per piece read back        */
    PER_PIECE = 2048,     /* file space beside the data: HDF5 headers, manifest */
    PER_SHARD = 16384
};

/* ---- names ----------------------------------------------------------------------------------- */

gr_status gr_ckpt_step_path(char dst[GR_PATH_MAX], const gr_ckpt_dir *d, int64_t step)
{
    return gr_path(dst, "%s/step-%08" PRId64, d->path, step);
}

/* -1 when `name` is not one that gr_ckpt_step_path would make. */
static int64_t step_of(const char *name)
{
    int64_t step = -1;
    char    again[64];

    if (sscanf(name, "step-%18" SCNd64, &step) != 1 || step < 0) return -1;
    snprintf(again, sizeof again, "step-%08" PRId64, step);
    return strcmp(name, again) ? -1 : step;
}

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

gr_status gr_ckpt_list(const gr_ckpt_dir *d, int64_t **out, int64_t *out_n)
{
    gr_status st = GR_OK;
    char    **name = NULL;
    int64_t   n_name = 0, *step = NULL, n = 0;

    GR_TRY(gr_list(d->path, &name, &n_name));
    GR_TRY(gr_alloc(&step, (uint64_t)n_name, sizeof *step, "list of checkpoints"));
    for (int64_t i = 0; i < n_name; i++)
        if (step_of(name[i]) >= 0) step[n++] = step_of(name[i]);
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

    GR_TRY(gr_ckpt_step_path(from, d, step));
    GR_TRY(gr_path(to, "%s/%sstep-%08" PRId64 "-%s", d->path, prefix, step, d->attempt));
    while (gr_exists(to)) /* the second time in one attempt */
        GR_TRY(gr_path(to, "%s/%sstep-%08" PRId64 "-%s-%d", d->path, prefix, step, d->attempt, ++again));
    GR_TRY(gr_publish(from, to));
out:
    return st;
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

/* What dead attempts left. A zombie may still be writing there: what cannot be removed stays for the next run. */
static gr_status remove_garbage(const gr_ckpt_dir *d)
{
    gr_status st = GR_OK;
    char    **name = NULL, path[GR_PATH_MAX];
    int64_t   n = 0;

    GR_TRY(gr_list(d->path, &name, &n));
    for (int64_t i = 0; i < n; i++) {
        if (strncmp(name[i], ".tmp-", 5) != 0 && strncmp(name[i], ".del-", 5) != 0) continue;
        GR_TRY(gr_path(path, "%s/%s", d->path, name[i]));
        if (gr_remove_tree(path) != GR_OK) gr_log("%s: left behind", path);
    }
out:
    gr_names_free(&name, n);
    return st;
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
        if (st == GR_OK) st = remove_garbage(d);
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
    gr_lock_close(&(*d)->lock);
    gr_free(d);
}

/* ---- saving: the shard of one rank --------------------------------------------------------------- */

typedef struct saving {
    const gr_ckpt_dir   *d;
    int64_t              step;
    const gr_ckpt_piece *piece;
    int64_t              n;
    int64_t              bytes;          /* of this rank's pieces, and what surrounds them */
    int64_t              shard, n_shard; /* this rank's, -1 when it owns nothing; of all   */
    gr_seal              seal;           /* of this rank's shard                           */
    gr_text              records;        /* gr_piece_record and name, for each piece       */
    char                 tmp[GR_PATH_MAX];
} saving;

static int64_t row_bytes(const gr_ckpt_piece *p)
{
    int64_t n = gr_dtype_size(p->dtype);

    for (int d = 1; d < p->rank; d++) n *= p->dim[d];
    return n;
}

/* Are these pieces possible? Whether they fit together is seen when all are known. */
static gr_status check_pieces(saving *s)
{
    gr_status st = GR_OK;

    s->shard = -1;
    for (int64_t i = 0; i < s->n; i++) {
        const gr_ckpt_piece *p = &s->piece[i];
        const int64_t        rows = p->rank ? p->dim[0] : 1;
        int64_t              bytes = gr_dtype_size(p->dtype);

        GR_CHECK(p->name && *p->name && strlen(p->name) <= GR_TENSOR_NAME && !strpbrk(p->name, "/@"), GR_ERR_ARG,
                 "piece %" PRId64 ": \"%.60s\" cannot be a tensor's name", i, p->name ? p->name : "");
        GR_CHECK(p->rank >= 0 && p->rank <= GR_MAX_DIM, GR_ERR_ARG, "tensor \"%s\": %d dimensions", p->name, p->rank);
        for (int d = 0; d < p->rank; d++)
            GR_CHECK(p->dim[d] > 0 && !__builtin_mul_overflow(bytes, p->dim[d], &bytes), GR_ERR_ARG,
                     "tensor \"%s\": impossible shape", p->name);
        GR_CHECK(p->first >= 0 && p->count >= 0 && p->first <= rows && p->count <= rows - p->first, GR_ERR_ARG,
                 "tensor \"%s\": rows %" PRId64 " to %" PRId64 " of %" PRId64, p->name, p->first, p->first + p->count,
                 rows);
        if (p->count == 0) continue;
        s->shard = 0; /* numbered later */
        s->bytes += p->count * row_bytes(p) + PER_PIECE;
    }
    if (s->shard == 0) s->bytes += PER_SHARD;
out:
    return st;
}

static gr_status write_piece(saving *s, gr_h5 *f, const gr_ckpt_piece *p)
{
    gr_status       st = GR_OK;
    char            name[GR_PATH_MAX];
    int64_t         dim[GR_MAX_DIM];
    gr_piece_record r = {
        .shard = s->shard, .first = p->first, .count = p->count, .dtype = (int32_t)p->dtype, .rank = p->rank};

    for (int d = 0; d < GR_MAX_DIM; d++) r.dim[d] = dim[d] = d < p->rank ? p->dim[d] : 1;
    dim[0] = p->count;
    r.n_name = (uint32_t)strlen(p->name);
    r.crc = gr_crc32c(0, p->data, (size_t)(p->count * row_bytes(p)));
    gr_text_put(&s->records, (const char *)&r, sizeof r);
    gr_text_put(&s->records, p->name, r.n_name);
    GR_TRY(s->records.st);
    GR_TRY(gr_piece_name(name, p->name, r.dim[0], p->first, p->count));
    GR_TRY(gr_h5_write(f, name, p->dtype, p->rank, dim, p->data));
out:
    return st;
}

/* What the file gives back is what was in memory. HDF5 has pretended success on a full disk, and the
 * seal alone would only confirm what is in the file. */
static gr_status read_back(const saving *s, const char *path)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    char     *data = NULL, name[GR_PATH_MAX];
    int64_t   room = READ_BACK, k;

    for (int64_t i = 0; i < s->n; i++)
        if (row_bytes(&s->piece[i]) > room) room = row_bytes(&s->piece[i]);
    GR_TRY(gr_alloc(&data, (uint64_t)room, 1, "piece to read back"));
    GR_TRY(gr_h5_open_known(&f, path, GR_CKPT_KIND, s->seal.id));
    for (int64_t i = 0; i < s->n; i++) {
        const gr_ckpt_piece *p = &s->piece[i];
        const int64_t        row = row_bytes(p);
        uint32_t             crc = 0;

        GR_TRY(gr_piece_name(name, p->name, p->rank ? p->dim[0] : 1, p->first, p->count));
        for (int64_t r = 0; r < p->count; r += k) {
            k = p->count - r < room / row ? p->count - r : room / row;
            GR_TRY(gr_h5_read(f, name, p->dtype, r, k, data));
            crc = gr_crc32c(crc, data, (size_t)(k * row));
        }
        GR_CHECK(crc == gr_crc32c(0, p->data, (size_t)(p->count * row)), GR_ERR_IO, "%s: \"%s\" reads back differently",
                 path, name);
    }
out:
    gr_h5_close(&f);
    gr_free(&data);
    return st;
}

/* [local] Nothing to do for a rank that owns nothing. */
static gr_status write_shard(saving *s)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    char      name[GR_SHARD_NAME], path[GR_PATH_MAX];

    if (s->shard < 0) goto out;
    gr_shard_name(name, s->shard, s->n_shard);
    GR_TRY(gr_path(path, "%s/%s", s->tmp, name));
    GR_TRY(gr_h5_create(&f, path, GR_CKPT_KIND));
    GR_TRY(gr_h5_set_int(f, NULL, "step", s->step));
    for (int64_t i = 0; i < s->n; i++)
        if (s->piece[i].count > 0) GR_TRY(write_piece(s, f, &s->piece[i]));
    GR_TRY(gr_h5_commit(&f));
    GR_TRY(gr_seal_read(path, GR_CKPT_KIND, &s->seal));
    GR_TRY(read_back(s, path));
out:
    gr_h5_close(&f);
    return st;
}

/* ---- saving: what rank 0 does for all ------------------------------------------------------------- */

/* A directory to write into, on a disk that has room. */
static gr_status prepare(const saving *s, int64_t bytes)
{
    gr_status      st = GR_OK;
    struct statvfs fs;

    GR_CHECK(s->n_shard < GR_MAX_SHARDS, GR_ERR_ARG, "%" PRId64 " shards, at most %d can be numbered", s->n_shard,
             GR_MAX_SHARDS);
    GR_CHECK(!statvfs(s->d->path, &fs), GR_ERR_IO, "%s: statvfs: %s", s->d->path, strerror(errno));
    GR_CHECK((double)fs.f_bavail * (double)fs.f_frsize > 1.1 * (double)bytes, GR_ERR_IO,
             "%s: %.1f MB are free, step %" PRId64 " needs %.1f MB and 10 %%", s->d->path,
             (double)fs.f_bavail * (double)fs.f_frsize / 1e6, s->step, (double)bytes / 1e6);
    GR_CHECK(!mkdir(s->tmp, 0777), GR_ERR_IO, "%s: mkdir: %s", s->tmp, strerror(errno));
out:
    return st;
}

static gr_status write_manifest(const saving *s, const char *text, uint64_t n)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];
    int       fd = -1, failed;

    GR_TRY(gr_path(path, "%s/manifest.json", s->tmp));
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    GR_CHECK(fd >= 0, GR_ERR_IO, "%s: %s", path, strerror(errno));
    GR_TRY(gr_pwrite_all(fd, text, n, 0, path));
    GR_CHECK(!fsync(fd), GR_ERR_IO, "%s: fsync: %s", path, strerror(errno));
    failed = close(fd);
    fd = -1;
    GR_CHECK(!failed, GR_ERR_IO, "%s: close: %s", path, strerror(errno));
    GR_TRY(gr_fsync_path(s->tmp));
out:
    if (fd >= 0) close(fd);
    return st;
}

static gr_status still_mine(const gr_ckpt_dir *d)
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

/* The commit point is the rename. A directory that cannot be synced afterwards takes it back: "saved" must mean saved.
 */
static gr_status commit(const saving *s)
{
    gr_status st = GR_OK;
    char      to[GR_PATH_MAX], away[GR_PATH_MAX];

    GR_TRY(gr_ckpt_step_path(to, s->d, s->step));
    GR_TRY(still_mine(s->d));
    if (rename(s->tmp, to)) {
        GR_CHECK(errno == EEXIST || errno == ENOTEMPTY, GR_ERR_IO, "%s: rename to %s: %s", s->tmp, to, strerror(errno));
        gr_log("%s: another attempt has saved it already", to);
        GR_TRY(gr_remove_tree(s->tmp));
        goto out;
    }
    st = gr_fsync_path(s->d->path);
    if (st != GR_OK && gr_ckpt_rename(s->d, s->step, ".del-", away) == GR_OK && gr_remove_tree(away) != GR_OK)
        gr_log("%s: left behind", away);
out:
    return st;
}

static gr_status publish(const saving *s, const gr_seal *seal, const char *records, int64_t n, const char *meta)
{
    gr_status st = GR_OK;
    char     *text = NULL;
    uint64_t  n_text = 0;

    GR_TRY(gr_manifest_compose(&text, &n_text, s->step, s->d->attempt, gr_comm_size(s->d->c), seal, s->n_shard, records,
                               n, meta));
    GR_TRY(write_manifest(s, text, n_text));
    GR_TRY(commit(s));
out:
    gr_free(&text);
    return st;
}

/* All but the newest `keep` go. Each leaves its name first, so that no half-deleted one looks like a checkpoint. A
 * failure here costs disk space, not data: it is logged, and the save stands. */
static void retain(const gr_ckpt_dir *d, int keep)
{
    int64_t *step = NULL, n = 0;
    char     away[GR_PATH_MAX];

    if (gr_ckpt_list(d, &step, &n) != GR_OK) gr_log("%s: old checkpoints stay", d->path);
    for (int64_t i = 0; i < n - keep; i++)
        if (gr_ckpt_rename(d, step[i], ".del-", away) != GR_OK || gr_remove_tree(away) != GR_OK)
            gr_log("%s: step %" PRId64 " could not be deleted", d->path, step[i]);
    gr_free(&step);
}

/* ---- saving: all ranks ------------------------------------------------------------------------------- */

/* [collective] Number the shards: only ranks that own something write one. */
static void number_shards(saving *s, int64_t *owns)
{
    const gr_comm *c = s->d->c;
    const int64_t  mine = s->shard >= 0;

    gr_allgather(c, &mine, sizeof mine, owns);
    for (int r = 0; r < gr_comm_size(c); r++) {
        if (r == gr_comm_rank(c) && mine) s->shard = s->n_shard;
        s->n_shard += owns[r];
    }
}

/* [collective] Write, gather, publish. The temporary directory is gone afterwards, one way or the other. */
static gr_status save_step(saving *s, const char *meta)
{
    gr_status      st = GR_OK;
    const gr_comm *c = s->d->c;
    const int      rank = gr_comm_rank(c), size = gr_comm_size(c);
    int64_t       *owns = NULL, *offset = NULL, bytes = s->bytes, k = 0;
    gr_seal       *seal = NULL;
    char          *records = NULL;

    st = gr_path(s->tmp, "%s/.tmp-step-%08" PRId64 "-%s", s->d->path, s->step, s->d->attempt);
    if (st == GR_OK) st = gr_alloc(&owns, (uint64_t)size, sizeof *owns, "owners of shards");
    if (st == GR_OK) st = gr_alloc(&seal, (uint64_t)size, sizeof *seal, "seals of shards");
    GR_TRY(gr_agree(c, st));
    number_shards(s, owns);
    gr_sum_i64(c, &bytes, 1);
    if (rank == 0) st = prepare(s, bytes);
    if (st == GR_OK) st = gr_fault(c, "ckpt_prepare");
    GR_TRY(gr_agree(c, st));

    st = gr_fault(c, "ckpt_shard");
    if (st == GR_OK) st = write_shard(s);
    GR_TRY(gr_agree(c, st));

    GR_TRY(gr_gather_bytes(c, s->records.s, (int64_t)s->records.n, &records, &offset));
    gr_allgather(c, &s->seal, sizeof s->seal, seal);
    for (int r = 0; r < size; r++)
        if (owns[r]) seal[k++] = seal[r];
    st = gr_fault(c, "ckpt_commit");
    GR_TRY(gr_agree(c, st));
    if (rank == 0) st = publish(s, seal, records, offset[size], meta);
    GR_TRY(gr_agree(c, st));
out:
    if (st != GR_OK && rank == 0 && *s->tmp && gr_remove_tree(s->tmp) != GR_OK) gr_log("%s: left behind", s->tmp);
    gr_free(&owns);
    gr_free(&seal);
    gr_free(&records);
    gr_free(&offset);
    return st;
}

gr_status gr_ckpt_save(gr_ckpt_dir *d, int64_t step, const gr_ckpt_piece *piece, int64_t n, const char *meta, int keep)
{
    gr_status st = GR_OK;
    saving    s = {.d = d, .step = step, .piece = piece, .n = n};
    char      path[GR_PATH_MAX];
    bool      there = false;

    st = check_pieces(&s);
    if (st == GR_OK && (step < 0 || step > 999999999999999999 || keep < 1 || !meta))
        st = gr_fail(__FILE__, __LINE__, GR_ERR_ARG, "step %" PRId64 ", keep %d, meta \"%.20s\"", step, keep,
                     meta ? meta : "");
    if (st == GR_OK) st = gr_ckpt_step_path(path, d, step);
    GR_TRY(gr_agree(d->c, st));
    if (gr_comm_rank(d->c) == 0) there = gr_exists(path);
    gr_bcast(d->c, &there, sizeof there, 0);
    if (!there) GR_TRY(save_step(&s, meta));
    if (gr_comm_rank(d->c) == 0) retain(d, keep);
out:
    gr_text_close(&s.records);
    return st == GR_OK || st == GR_ERR_ARG ? st : GR_ERR_SAVE;
}
