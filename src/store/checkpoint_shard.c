/* The shard of one rank: its list of pieces, their copy, and what the writer does with them. */
#include "store/checkpoint_room.h"
#include "store/direct.h"
#include "store/h5.h"
#include "store/manifest.h"
#include "util/clock.h"
#include "util/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    PER_PIECE = 2048, /* file space beside the data: HDF5 headers, manifest, and gaps before pages */
    PER_SHARD = 16384,
    COPY = 1 << 20, /* bytes a thread copies at a time   */
    LINE = 64,      /* small pieces are staged on these  */
    PATIENCE_S = 10 /* for a writer, when all is given up */
};

typedef gr_ckpt_flight flight;

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
gr_status gr_ckpt_check_pieces(const gr_ckpt_piece *piece, int64_t n)
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

/* In the caller's memory, so without a copy: the rows of each rank go to all others. */
gr_status gr_ckpt_spread(const gr_comm *c, const gr_ckpt_piece *piece, int64_t n)
{
    gr_status      st = GR_OK;
    gr_ckpt_piece *dealt = NULL;

    if (gr_comm_size(c) == 1) return GR_OK;
    GR_TRY(gr_agree(c, gr_alloc(&dealt, (uint64_t)n, sizeof *dealt, "pieces of a rank")));
    for (int r = 0; r < gr_comm_size(c); r++) {
        for (int64_t i = 0; i < n; i++) dealt[i] = piece[i];
        gr_ckpt_deal(dealt, n, r, gr_comm_size(c));
        for (int64_t i = 0; i < n; i++)
            if (dealt[i].count) gr_bcast(c, dealt[i].data, piece_bytes(&dealt[i]), r);
    }
out:
    gr_free(&dealt);
    return st;
}

/* ---- the flight: a list of its own, and the staging buffer ---------------------------------------- */

void gr_ckpt_flight_clear(flight *s)
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
    if (d->flight.phase == GR_CKPT_IDLE) gr_writer_wait(&d->writer); /* what is being deleted goes */
    atomic_store(&d->flight.cancel, true);
    if (!gr_writer_leave(&d->writer, PATIENCE_S)) {
        gr_log("%s: the writer hangs, and is left behind", d->path);
        return false;
    }
    gr_ckpt_flight_clear(&d->flight);
    return true;
}

/* Copy what the caller may free: the list, the names, the text. */
gr_status gr_ckpt_take_list(flight *s, const gr_ckpt_piece *piece, int64_t n, const char *meta)
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
gr_status gr_ckpt_make_stage(gr_ckpt_dir *d)
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

void gr_ckpt_fill_stage(gr_ckpt_dir *d)
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

static gr_status add_record(flight *s, const gr_ckpt_piece *p, uint64_t offset, uint32_t crc)
{
    gr_piece_record r = {.shard = s->shard,
                         .first = p->first,
                         .count = p->count,
                         .offset = offset,
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
        GR_TRY(add_record(s, &s->piece[i], slot[i].offset, crc));
    }
    GR_TRY(gr_direct_commit(&w, path, GR_CKPT_KIND, &s->seal));
out:
    gr_direct_close(&w);
    gr_free(&slot);
    return st;
}

/* [writer] Nothing to do for a rank that owns nothing. */
gr_status gr_ckpt_write_job(void *user)
{
    flight      *s = user;
    const double start = gr_now();
    gr_status    st = s->shard >= 0 ? write_shard(s) : GR_OK;

    s->seconds = gr_now() - start;
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
gr_status gr_ckpt_read_job(void *user)
{
    gr_status     st = GR_OK;
    const flight *s = user;
    char          path[GR_PATH_MAX];
    gr_seal       seal;

    if (s->shard < 0) goto out;
    GR_TRY(gr_path(path, "%s/%s", s->path, s->shard_name));
    GR_TRY(drop_cache(path));
    GR_TRY(gr_seal_verify_disk(path, GR_CKPT_KIND, &seal));
    GR_CHECK(!strcmp(seal.id, s->seal.id), GR_ERR_INPUT, "%s: seal %s, written was %s", path, seal.id, s->seal.id);
out:
    return st;
}
