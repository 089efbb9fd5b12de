#include "store/checkpoint_room.h"
#include "store/manifest.h"
#include "util/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

typedef gr_ckpt_flight flight;

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
    GR_TRY(gr_fsync(fd, path));
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
    return d ? d->flight.phase : GR_CKPT_IDLE;
}

bool gr_ckpt_written(const gr_ckpt_dir *d)
{
    return d->flight.phase == GR_CKPT_IDLE || gr_writer_done(&d->writer);
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
    gr_ckpt_flight_clear(s);
}

/* [collective] Number the shards: only ranks that own something write one. */
static gr_status number_shards(gr_ckpt_dir *d)
{
    gr_status     st = GR_OK;
    flight       *s = &d->flight;
    const int64_t mine = s->shard >= 0;
    int64_t      *owns = NULL;

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
static gr_status ready(gr_ckpt_dir *d, const gr_ckpt_piece *piece, int64_t n, const char *meta, bool staged,
                       bool *there)
{
    gr_status st = GR_OK;
    flight   *s = &d->flight;
    int64_t   bytes;

    st = gr_ckpt_check_pieces(piece, n);
    if (st == GR_OK && (s->step < 0 || s->step > 999999999999999999 || s->keep < 1 || !meta))
        st = gr_fail(__FILE__, __LINE__, GR_ERR_ARG, "step %" PRId64 ", keep %d, meta \"%.20s\"", s->step, s->keep,
                     meta ? meta : "");
    if (st == GR_OK) st = gr_ckpt_step_path(s->path, d->path, s->step);
    if (st == GR_OK) st = gr_ckpt_take_list(s, piece, n, meta);
    if (st == GR_OK && staged) st = gr_ckpt_make_stage(d);
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
    gr_writer_wait(&d->writer); /* it may still be deleting: that is space to write in */
    gr_ckpt_flight_clear(&d->flight);
    d->flight.step = step;
    d->flight.keep = keep;
    d->flight.beside = beside;
    GR_TRY(ready(d, piece, n, meta, beside, &there));
    if (there) {
        gr_ckpt_flight_clear(&d->flight);
        goto out;
    }
    if (beside) gr_ckpt_fill_stage(d);
    d->flight.phase = GR_CKPT_WRITING;
    gr_writer_start(&d->writer, gr_ckpt_write_job, &d->flight, beside);
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
        gr_writer_start(&d->writer, gr_ckpt_read_job, s, s->beside);
    } else {
        gr_ckpt_flight_clear(s);
    }
out:
    if (st != GR_OK) abandon(d);
    gr_free(&seal);
    gr_free(&records);
    gr_free(&offset);
    return as_save(st);
}

/* [rank 0] */
static void judge(gr_ckpt_dir *d, bool bad, bool unknown)
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
    if (gr_ckpt_retain(d, s->keep)) gr_writer_start(&d->writer, gr_ckpt_delete_job, d, s->beside);
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
    gr_ckpt_flight_clear(&d->flight);
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
