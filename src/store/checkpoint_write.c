#include "store/checkpoint_room.h"
#include "store/direct.h"
#include "store/h5.h"
#include "store/manifest.h"
#include "util/crc32c.h"
#include "util/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum {
    PER_PIECE = 2048, /* file space beside the data: HDF5 headers, manifest, and gaps before pages */
    PER_SHARD = 16384,
    COPY = 1 << 20, /* bytes a thread copies at a time   */
    LINE = 64,      /* small pieces are staged on these  */
    PATIENCE_S = 10 /* for a writer, when all is given up */
};

typedef gr_ckpt_flight flight;

static double now(void)
{
    struct timespec t = {0};

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- pieces ------------------------------------------------------------------------------------ */

static int64_t row_bytes(const gr_ckpt_piece *p)
{
    int64_t n = gr_dtype_size(p->dtype);

    for (int d = 1; d < p->rank; d++) n *= p->dim[d];
    return n;
}

static int64_t piece_bytes(const gr_ckpt_piece *p)
{
    return p->count * row_bytes(p);
}

static gr_status check_piece(const gr_ckpt_piece *p)
{
    gr_status     st = GR_OK;
    const int64_t rows = p->rank > 0 ? p->dim[0] : 1;
    int64_t       bytes = gr_dtype_size(p->dtype);

    GR_CHECK(p->name && *p->name && strlen(p->name) <= GR_TENSOR_NAME && !strpbrk(p->name, "/@"), GR_ERR_ARG,
             "\"%.60s\" cannot be a tensor's name", p->name ? p->name : "");
    GR_CHECK(p->rank >= 0 && p->rank <= GR_MAX_DIM, GR_ERR_ARG, "tensor \"%s\": %d dimensions", p->name, p->rank);
    for (int d = 0; d < p->rank; d++)
        GR_CHECK(p->dim[d] > 0 && !__builtin_mul_overflow(bytes, p->dim[d], &bytes), GR_ERR_ARG,
                 "tensor \"%s\": impossible shape", p->name);
    GR_CHECK(p->first >= 0 && p->count >= 0 && p->first <= rows && p->count <= rows - p->first, GR_ERR_ARG,
             "tensor \"%s\": rows %" PRId64 " to %" PRId64 " of %" PRId64, p->name, p->first, p->first + p->count,
             rows);
out:
    return st;
}

/* Are these pieces possible? Whether they fit together is seen when all are known. */
static gr_status check_pieces(const gr_ckpt_piece *piece, int64_t n)
{
    gr_status st = GR_OK;

    for (int64_t i = 0; i < n; i++) GR_TRY(check_piece(&piece[i]));
out:
    return st;
}

/* The rows whose first byte, counted through all tensors, lies in [lo, hi); `at` is the tensor's own first byte. */
static int64_t row_from(int64_t rows, int64_t row, int64_t at, int64_t byte)
{
    const int64_t r = byte <= at ? 0 : (byte - at) / row + ((byte - at) % row > 0);

    return r < rows ? r : rows;
}

void gr_ckpt_deal(gr_ckpt_piece *piece, int64_t n, int rank, int size)
{
    int64_t total = 0, at = 0, lo, share;

    for (int64_t i = 0; i < n; i++) total += piece_bytes(&piece[i]);
    gr_share(total, rank, size, &lo, &share);
    for (int64_t i = 0; i < n; i++) {
        gr_ckpt_piece *p = &piece[i];
        const int64_t  rows = p->count, row = row_bytes(p), from = row_from(rows, row, at, lo);

        p->count = row_from(rows, row, at, lo + share) - from;
        p->first += from;
        p->data = p->data ? (char *)p->data + from * row : NULL;
        at += rows * row;
    }
}

/* ---- the flight: a list of its own, and the staging buffer ---------------------------------------- */

static void flight_clear(flight *s)
{
    gr_free(&s->piece);
    gr_free(&s->names);
    gr_free(&s->meta);
    gr_text_close(&s->records);
    memset(s, 0, offsetof(flight, cancel));
    *s->tmp = *s->path = *s->shard_name = 0;
    s->shard = -1;
}

bool gr_ckpt_flight_close(gr_ckpt_dir *d)
{
    atomic_store(&d->flight.cancel, true);
    if (!gr_writer_leave(&d->writer, PATIENCE_S)) {
        gr_log("%s: the writer hangs, and is left behind", d->path);
        return false;
    }
    flight_clear(&d->flight);
    return true;
}

/* Copy what the caller may free: the list, the names, the text. */
static gr_status take_list(flight *s, const gr_ckpt_piece *piece, int64_t n, const char *meta)
{
    gr_status st = GR_OK;
    uint64_t  at = 0;

    GR_TRY(gr_strdup(&s->meta, meta));
    GR_TRY(gr_alloc(&s->piece, (uint64_t)n, sizeof *piece, "pieces to save"));
    GR_TRY(gr_alloc(&s->names, (uint64_t)n, GR_TENSOR_NAME + 1, "names of pieces"));
    for (int64_t i = 0; i < n; i++) {
        if (piece[i].count == 0) continue;
        const size_t bytes = strlen(piece[i].name) + 1;
        s->piece[s->n] = piece[i];
        s->piece[s->n++].name = memcpy(s->names + at, piece[i].name, bytes);
        at += bytes;
        s->bytes += piece_bytes(&piece[i]) + PER_PIECE + (piece_bytes(&piece[i]) >= GR_H5_PAGED ? GR_H5_PAGE : 0);
    }
    s->shard = s->n ? 0 : -1; /* numbered later */
    if (s->n) s->bytes += PER_SHARD;
out:
    return st;
}

static char *aligned(char *p, uint64_t to)
{
    return p + (to - (uint64_t)(uintptr_t)p % to) % to;
}

/* Where piece p goes when everything before `at` is taken; on a page if it can be written by pages. */
static char *place(char *at, const gr_ckpt_piece *p)
{
    return aligned(at, piece_bytes(p) >= GR_H5_PAGED ? GR_H5_PAGE : LINE);
}

/* Room for copies of all pieces; kept for the next save. */
static gr_status make_stage(gr_ckpt_dir *d)
{
    gr_status     st = GR_OK;
    const flight *s = &d->flight;
    uint64_t      bytes = GR_H5_PAGE;

    for (int64_t i = 0; i < s->n; i++)
        bytes += (uint64_t)piece_bytes(&s->piece[i]) + (piece_bytes(&s->piece[i]) >= GR_H5_PAGED ? GR_H5_PAGE : LINE);
    if (d->stage && bytes <= d->stage_bytes) goto out;
    gr_free(&d->stage);
    d->stage_bytes = 0;
    GR_TRY(gr_alloc(&d->stage, bytes, 1, "copy of what is being saved"));
    d->stage_bytes = bytes;
out:
    return st;
}

static void copy(char *to, const char *from, int64_t n)
{
#pragma omp parallel for if (n > 4 * COPY)
    for (int64_t i = 0; i < n; i += COPY) memcpy(to + i, from + i, (size_t)(n - i < COPY ? n - i : COPY));
}

static void fill_stage(gr_ckpt_dir *d)
{
    char *at = d->stage;

    for (int64_t i = 0; i < d->flight.n; i++) {
        gr_ckpt_piece *p = &d->flight.piece[i];

        at = place(at, p);
        copy(at, p->data, piece_bytes(p));
        p->data = at;
        at += piece_bytes(p);
    }
}

/* ---- the writer: the shard of one rank -------------------------------------------------------------- */

static gr_status add_record(flight *s, const gr_ckpt_piece *p, uint32_t crc)
{
    gr_piece_record r = {.shard = s->shard,
                         .first = p->first,
                         .count = p->count,
                         .dtype = (int32_t)p->dtype,
                         .rank = p->rank,
                         .crc = crc,
                         .n_name = (uint32_t)strlen(p->name)};

    for (int d = 0; d < GR_MAX_DIM; d++) r.dim[d] = d < p->rank ? p->dim[d] : 1;
    gr_text_put(&s->records, (const char *)&r, sizeof r);
    gr_text_put(&s->records, p->name, r.n_name);
    return s->records.st;
}

/* Everything but the data: quick, and all that happens under the lock around HDF5. */
static gr_status lay_out(const flight *s, const char *path, char tmp[GR_PATH_MAX], gr_h5_slot *slot)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    char      name[GR_PATH_MAX];
    int64_t   dim[GR_MAX_DIM];

    GR_TRY(gr_h5_create_paged(&f, path, GR_CKPT_KIND));
    GR_TRY(gr_h5_set_int(f, NULL, "step", s->step));
    for (int64_t i = 0; i < s->n; i++) {
        const gr_ckpt_piece *p = &s->piece[i];

        memcpy(dim, p->dim, sizeof dim);
        dim[0] = p->count;
        GR_TRY(gr_piece_name(name, p->name, p->rank ? p->dim[0] : 1, p->first, p->count));
        GR_TRY(gr_h5_reserve(f, name, p->dtype, p->rank, dim));
    }
    GR_TRY(gr_h5_lay_out(&f, tmp, slot, s->n));
out:
    gr_h5_close(&f);
    return st;
}

static gr_status write_shard(flight *s)
{
    gr_status   st = GR_OK;
    gr_direct  *w = NULL;
    gr_h5_slot *slot = NULL;
    char        path[GR_PATH_MAX], tmp[GR_PATH_MAX] = "";
    uint32_t    crc = 0;

    GR_TRY(gr_path(path, "%s/%s", s->tmp, s->shard_name));
    GR_TRY(gr_alloc(&slot, (uint64_t)s->n, sizeof *slot, "slots of pieces"));
    GR_TRY(lay_out(s, path, tmp, slot));
    GR_TRY(gr_direct_open(&w, tmp, &s->cancel));
    for (int64_t i = 0; i < s->n; i++) {
        GR_TRY(gr_direct_put(w, &slot[i], s->piece[i].data, &crc));
        GR_TRY(add_record(s, &s->piece[i], crc));
    }
    GR_TRY(gr_direct_commit(&w, path, GR_CKPT_KIND, &s->seal));
out:
    gr_direct_close(&w);
    gr_free(&slot);
    return st;
}

/* [writer] Nothing to do for a rank that owns nothing. */
static gr_status write_job(void *user)
{
    flight      *s = user;
    const double start = now();
    gr_status    st = s->shard >= 0 ? write_shard(s) : GR_OK;

    s->seconds = now() - start;
    return st;
}

/* From the medium, as far as the system lets us: what the page cache holds proves nothing about the disk. */
static gr_status drop_cache(const char *path)
{
    gr_status st = GR_OK;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);

    GR_CHECK(fd >= 0, GR_ERR_IO, "%s: %s", path, strerror(errno));
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* a wish: where it is not granted, the cache is read */
    close(fd);
out:
    return st;
}

/* [writer] Read the published shard against its seal. */
static gr_status read_job(void *user)
{
    gr_status     st = GR_OK;
    const flight *s = user;
    char          path[GR_PATH_MAX];
    gr_seal       seal;

    if (s->shard < 0) goto out;
    GR_TRY(gr_path(path, "%s/%s", s->path, s->shard_name));
    GR_TRY(drop_cache(path));
    GR_TRY(gr_seal_verify(NULL, path, GR_CKPT_KIND, &seal));
    GR_CHECK(!strcmp(seal.id, s->seal.id), GR_ERR_INPUT, "%s: seal %s, written was %s", path, seal.id, s->seal.id);
out:
    return st;
}

/* ---- what rank 0 does for all -------------------------------------------------------------------------- */

/* A directory to write into, on a disk that has room. */
static gr_status prepare(const gr_ckpt_dir *d, int64_t bytes)
{
    gr_status      st = GR_OK;
    const flight  *s = &d->flight;
    struct statvfs fs;

    GR_CHECK(s->n_shard < GR_MAX_SHARDS, GR_ERR_ARG, "%" PRId64 " shards, at most %d can be numbered", s->n_shard,
             GR_MAX_SHARDS);
    GR_CHECK(!statvfs(d->path, &fs), GR_ERR_IO, "%s: statvfs: %s", d->path, strerror(errno));
    GR_CHECK((double)fs.f_bavail * (double)fs.f_frsize > 1.1 * (double)bytes, GR_ERR_IO,
             "%s: %.1f MB are free, step %" PRId64 " needs %.1f MB and 10 %%", d->path,
             (double)fs.f_bavail * (double)fs.f_frsize / 1e6, s->step, (double)bytes / 1e6);
    GR_CHECK(!mkdir(s->tmp, 0777), GR_ERR_IO, "%s: mkdir: %s", s->tmp, strerror(errno));
out:
    return st;
}

static gr_status write_manifest(const flight *s, const char *text, uint64_t n)
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

/* The commit point is the rename. A directory that cannot be synced afterwards takes it back: "saved" must mean saved.
 */
static gr_status commit(const gr_ckpt_dir *d, bool *ours)
{
    gr_status     st = GR_OK;
    const flight *s = &d->flight;
    char          away[GR_PATH_MAX];

    GR_TRY(gr_ckpt_still_mine(d));
    gr_ckpt_mark(d, s->step, false);
    if (rename(s->tmp, s->path)) {
        GR_CHECK(errno == EEXIST || errno == ENOTEMPTY, GR_ERR_IO, "%s: rename to %s: %s", s->tmp, s->path,
                 strerror(errno));
        gr_log("%s: another attempt has saved it already", s->path);
        GR_TRY(gr_remove_tree(s->tmp));
        goto out;
    }
    *ours = true;
    st = gr_fsync_path(d->path);
    if (st != GR_OK && gr_ckpt_rename(d, s->step, ".del-", away) == GR_OK && gr_remove_tree(away) != GR_OK)
        gr_log("%s: left behind", away);
out:
    return st;
}

static gr_status publish(const gr_ckpt_dir *d, const gr_seal *seal, const char *records, int64_t n, bool *ours)
{
    gr_status     st = GR_OK;
    const flight *s = &d->flight;
    char         *text = NULL;
    uint64_t      n_text = 0;

    GR_TRY(gr_manifest_compose(&text, &n_text, s->step, d->attempt, gr_comm_size(d->c), seal, s->n_shard, records, n,
                               s->meta));
    GR_TRY(write_manifest(s, text, n_text));
    GR_TRY(commit(d, ours));
out:
    gr_free(&text);
    return st;
}

/* ---- all ranks ------------------------------------------------------------------------------------------- */

static gr_status as_save(gr_status st)
{
    return st == GR_OK || st == GR_ERR_ARG ? st : GR_ERR_SAVE;
}

gr_ckpt_phase gr_ckpt_phase_of(const gr_ckpt_dir *d)
{
    return d->flight.phase;
}

bool gr_ckpt_written(const gr_ckpt_dir *d)
{
    return gr_writer_done(&d->writer);
}

const gr_ckpt_saved *gr_ckpt_last(const gr_ckpt_dir *d)
{
    return &d->saved;
}

/* The temporary directory goes. */
static void abandon(gr_ckpt_dir *d)
{
    flight *s = &d->flight;

    if (gr_comm_rank(d->c) == 0 && *s->tmp && gr_remove_tree(s->tmp) != GR_OK) gr_log("%s: left behind", s->tmp);
    flight_clear(s);
}

/* [collective] Number the shards: only ranks that own something write one. */
static gr_status number_shards(gr_ckpt_dir *d)
{
    gr_status      st = GR_OK;
    flight        *s = &d->flight;
    const int64_t  mine = s->shard >= 0;
    int64_t       *owns = NULL;

    GR_TRY(gr_agree(d->c, gr_alloc(&owns, (uint64_t)gr_comm_size(d->c), sizeof *owns, "owners of shards")));
    gr_allgather(d->c, &mine, sizeof mine, owns);
    for (int r = 0; r < gr_comm_size(d->c); r++) {
        if (r == gr_comm_rank(d->c) && mine) s->shard = s->n_shard;
        s->n_shard += owns[r];
    }
    if (s->shard >= 0) gr_shard_name(s->shard_name, s->shard, s->n_shard);
out:
    gr_free(&owns);
    return st;
}

/* [collective] Everything up to the first byte. *there: the step is saved already. */
static gr_status ready(gr_ckpt_dir *d, const gr_ckpt_piece *piece, int64_t n, const char *meta, bool staged, bool *there)
{
    gr_status st = GR_OK;
    flight   *s = &d->flight;
    int64_t   bytes;

    st = check_pieces(piece, n);
    if (st == GR_OK && (s->step < 0 || s->step > 999999999999999999 || s->keep < 1 || !meta))
        st = gr_fail(__FILE__, __LINE__, GR_ERR_ARG, "step %" PRId64 ", keep %d, meta \"%.20s\"", s->step, s->keep,
                     meta ? meta : "");
    if (st == GR_OK) st = gr_ckpt_step_path(s->path, d->path, s->step);
    if (st == GR_OK) st = take_list(s, piece, n, meta);
    if (st == GR_OK && staged) st = make_stage(d);
    GR_TRY(gr_agree(d->c, st));
    if (gr_comm_rank(d->c) == 0) *there = gr_exists(s->path);
    gr_bcast(d->c, there, sizeof *there, 0);
    if (*there) goto out;

    GR_TRY(number_shards(d));
    bytes = s->bytes;
    gr_sum_i64(d->c, &bytes, 1);
    st = gr_path(s->tmp, "%s/.tmp-step-%08" PRId64 "-%s", d->path, s->step, d->attempt);
    if (st == GR_OK && gr_comm_rank(d->c) == 0) st = prepare(d, bytes);
    if (st == GR_OK) st = gr_fault(d->c, "ckpt_prepare");
    GR_TRY(gr_agree(d->c, st));
out:
    return st;
}

static gr_status begin(gr_ckpt_dir *d, int64_t step, const gr_ckpt_piece *piece, int64_t n, const char *meta, int keep,
                       bool beside)
{
    gr_status st = GR_OK;
    bool      there = false;

    if (d->flight.phase == GR_CKPT_WRITING) gr_ckpt_publish(d); /* what went wrong has been said */
    if (d->flight.phase == GR_CKPT_READING) gr_ckpt_settle(d);
    flight_clear(&d->flight);
    d->flight.step = step;
    d->flight.keep = keep;
    d->flight.beside = beside;
    GR_TRY(ready(d, piece, n, meta, beside, &there));
    if (there) {
        flight_clear(&d->flight);
        goto out;
    }
    if (beside) fill_stage(d);
    d->flight.phase = GR_CKPT_WRITING;
    gr_writer_start(&d->writer, write_job, &d->flight, beside);
out:
    if (st != GR_OK) abandon(d);
    return as_save(st);
}

gr_status gr_ckpt_begin(gr_ckpt_dir *d, int64_t step, const gr_ckpt_piece *piece, int64_t n, const char *meta, int keep)
{
    return begin(d, step, piece, n, meta, keep, true);
}

/* What every rank tells of its shard. */
typedef struct shard_note {
    int64_t owns;
    gr_seal seal;
    double  seconds;
} shard_note;

/* [collective] The seals of all shards in order, and what there is to say of the save. */
static gr_status gather_notes(gr_ckpt_dir *d, gr_seal **out, gr_ckpt_saved *saved)
{
    gr_status        st = GR_OK;
    const flight    *s = &d->flight;
    const int        size = gr_comm_size(d->c);
    const shard_note mine = {.owns = s->shard >= 0, .seal = s->seal, .seconds = s->seconds};
    shard_note      *note = NULL;
    gr_seal         *seal = NULL;
    int64_t          n = 0;

    st = gr_alloc(&note, (uint64_t)size, sizeof *note, "seals of shards");
    if (st == GR_OK) st = gr_alloc(&seal, (uint64_t)size, sizeof *seal, "seals of shards");
    GR_TRY(gr_agree(d->c, st));
    gr_allgather(d->c, &mine, sizeof mine, note);
    *saved = (gr_ckpt_saved){.step = s->step};
    for (int r = 0; r < size; r++) {
        if (!note[r].owns) continue;
        seal[n++] = note[r].seal;
        saved->bytes += (int64_t)note[r].seal.bytes + GR_SEAL_BYTES;
        if (note[r].seconds > saved->seconds) saved->seconds = note[r].seconds;
    }
    *out = seal;
    seal = NULL;
out:
    gr_free(&note);
    gr_free(&seal);
    return st;
}

gr_status gr_ckpt_publish(gr_ckpt_dir *d)
{
    gr_status     st = GR_OK;
    flight       *s = &d->flight;
    int64_t      *offset = NULL;
    gr_seal      *seal = NULL;
    char         *records = NULL;
    bool          ours = false;
    gr_ckpt_saved saved;

    if (s->phase != GR_CKPT_WRITING) return GR_OK;
    st = gr_writer_wait(&d->writer);
    if (st == GR_OK) st = gr_fault(d->c, "ckpt_shard");
    GR_TRY(gr_agree(d->c, st));
    GR_TRY(gr_gather_bytes(d->c, s->records.s, (int64_t)s->records.n, &records, &offset));
    GR_TRY(gather_notes(d, &seal, &saved));
    st = gr_fault(d->c, "ckpt_commit");
    GR_TRY(gr_agree(d->c, st));
    if (gr_comm_rank(d->c) == 0) st = publish(d, seal, records, offset[gr_comm_size(d->c)], &ours);
    GR_TRY(gr_agree(d->c, st));
    gr_bcast(d->c, &ours, sizeof ours, 0);
    d->saved = saved;
    if (ours) {
        s->phase = GR_CKPT_READING;
        gr_writer_start(&d->writer, read_job, s, s->beside);
    } else {
        flight_clear(s);
    }
out:
    if (st != GR_OK) abandon(d);
    gr_free(&seal);
    gr_free(&records);
    gr_free(&offset);
    return as_save(st);
}

/* [rank 0] */
static void judge(const gr_ckpt_dir *d, bool bad, bool unknown)
{
    const flight *s = &d->flight;
    char          to[GR_PATH_MAX];

    if (gr_ckpt_still_mine(d) != GR_OK) return; /* it is for the other attempt to say */
    if (bad) {
        if (gr_ckpt_rename(d, s->step, "bad-", to) == GR_OK)
            gr_log("step %" PRId64 " was saved and reads back damaged; it is set aside as %s", s->step, to);
        return;
    }
    if (unknown) return;
    gr_ckpt_mark(d, s->step, true);
    gr_ckpt_retain(d, s->keep);
}

gr_status gr_ckpt_settle(gr_ckpt_dir *d)
{
    gr_status st;
    int64_t   worst[2];

    if (d->flight.phase != GR_CKPT_READING) return GR_OK;
    st = gr_writer_wait(&d->writer);
    if (st == GR_OK) st = gr_fault(d->c, "ckpt_verify");
    worst[0] = st == GR_ERR_INPUT || st == GR_ERR_IO;
    worst[1] = st != GR_OK && !worst[0]; /* memory, not the checkpoint */
    gr_max_i64(d->c, worst, 2);
    if (gr_comm_rank(d->c) == 0) judge(d, worst[0], worst[1]);
    gr_barrier(d->c); /* nobody looks before it is done */
    flight_clear(&d->flight);
    return worst[0] ? GR_ERR_SAVE : GR_OK;
}

gr_status gr_ckpt_save(gr_ckpt_dir *d, int64_t step, const gr_ckpt_piece *piece, int64_t n, const char *meta, int keep)
{
    gr_status st = GR_OK;

    GR_TRY(begin(d, step, piece, n, meta, keep, false));
    GR_TRY(gr_ckpt_publish(d));
    GR_TRY(gr_ckpt_settle(d));
out:
    return st;
}
