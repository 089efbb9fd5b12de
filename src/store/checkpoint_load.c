/* Rows out of shards: everything that a rank wants while everything is verified, each byte read once; or the rows of
 * one tensor afterwards.
 *
 * Shards are looked at in chunks. A rank reads the chunks in which its rows lie, and an equal share of those that
 * nobody wants. Of each chunk one of its readers, the owner, tells the others the checksum: from all of them follow the
 * seals, and whoever else read the chunk compares. So each byte that is used is a byte that was verified, on every
 * rank. */
#include "store/checkpoint_room.h"
#include "store/stream.h"
#include "util/crc32c.h"
#include "util/mem.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 256 << 10, CHUNKS = GR_SEAL_BLOCK / CHUNK /* in a block of the seal */, NOBODY = -1 };

/* Wanted bytes of a shard, and where they go. */
typedef struct part {
    int64_t  shard;
    uint64_t offset, bytes;
    char    *to;
} part;

typedef struct load {
    const gr_ckpt *ck;
    const gr_comm *c;
    part          *part; /* [n] by shard and offset                                           */
    int64_t        n, room;
    int64_t       *base;              /* [shards + 1] the first chunk of each shard, counted through all    */
    int64_t       *owner;             /* [chunks] the rank whose word counts                                */
    int64_t       *crc;               /* [chunks] as read here                                              */
    int64_t       *told;              /* [chunks] as read by the owner                                      */
    bool          *mine;              /* [chunks] read here                                                 */
    int64_t        shard, next, last; /* being read: its parts [next, last) are not complete yet */
} load;

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- where rows are ------------------------------------------------------------------------------ */

/* A tensor has these rows, in this shape. */
static bool has_rows(const gr_manifest_tensor *t, const gr_ckpt_piece *p)
{
    return p->first >= 0 && p->count >= 0 && p->first <= t->dim[0] && p->count <= t->dim[0] - p->first;
}

static bool same_shape(const gr_manifest_tensor *t, const gr_ckpt_piece *p)
{
    return t->dtype == p->dtype && t->rank == p->rank && !memcmp(t->dim, p->dim, (size_t)t->rank * sizeof *t->dim);
}

gr_status gr_ckpt_fits(const gr_ckpt *ck, const gr_ckpt_piece *p)
{
    gr_status                 st = GR_OK;
    const gr_manifest_tensor *t = gr_manifest_find(ck->m, p->name);

    GR_CHECK(t, GR_ERR_INPUT, "%s: no tensor \"%s\"", ck->path, p->name);
    GR_CHECK(t->dtype == p->dtype && t->rank == p->rank, GR_ERR_INPUT,
             "%s: tensor \"%s\" is %s with %d dimensions, expected %s with %d", ck->path, p->name,
             gr_dtype_name(t->dtype), t->rank, gr_dtype_name(p->dtype), p->rank);
    for (int d = 0; d < t->rank; d++)
        GR_CHECK(t->dim[d] == p->dim[d], GR_ERR_INPUT,
                 "%s: tensor \"%s\": dimension %d is %" PRId64 ", expected %" PRId64, ck->path, p->name, d, t->dim[d],
                 p->dim[d]);
    GR_CHECK(has_rows(t, p), GR_ERR_ARG, "%s: tensor \"%s\": rows %" PRId64 " to %" PRId64 " of %" PRId64, ck->path,
             p->name, p->first, p->first + p->count, t->dim[0]);
out:
    return st;
}

/* The first stored piece that ends behind `row`. */
static int64_t piece_at(const gr_manifest *m, const gr_manifest_tensor *t, int64_t row)
{
    int64_t lo = t->piece, hi = t->piece + t->n_piece;

    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (m->piece[mid].first + m->piece[mid].count > row)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* What stored piece s holds of the wanted piece from its row `done` on; returns the number of rows. */
static int64_t part_of(const gr_manifest_piece *s, const gr_ckpt_piece *p, int64_t done, part *out)
{
    const int64_t row = (int64_t)s->bytes / s->count, at = p->first + done - s->first;
    const int64_t n = s->count - at < p->count - done ? s->count - at : p->count - done;

    *out = (part){s->shard, s->offset + (uint64_t)(at * row), (uint64_t)(n * row), (char *)p->data + done * row};
    return n;
}

/* Open shard i, which must be the very file that the manifest lists. */
static gr_status open_shard(const gr_ckpt *ck, int64_t i, char path[GR_PATH_MAX], int *out)
{
    gr_status      st = GR_OK;
    const gr_seal *s = &ck->m->shard[i];
    gr_seal        found;
    int            fd = -1;

    GR_TRY(gr_ckpt_shard_path(ck, i, path));
    GR_TRY(gr_seal_open(path, GR_CKPT_KIND, &found, &fd));
    GR_CHECK(found.bytes == s->bytes && found.crc == s->crc && !*found.content, GR_ERR_INPUT,
             "%s: seal %s, the manifest says %s: another file", path, found.id, s->id);
    *out = fd;
    fd = -1;
out:
    if (fd >= 0) close(fd);
    return st;
}

/* ---- one tensor ---------------------------------------------------------------------------------- */

static gr_status read_part(const gr_ckpt *ck, const gr_manifest_piece *s, const part *p)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];
    int       fd = -1;

    GR_TRY(open_shard(ck, s->shard, path, &fd));
    GR_TRY(gr_pread_all(fd, p->to, p->bytes, p->offset, path));
    GR_CHECK(p->bytes < s->bytes || gr_crc32c(0, p->to, p->bytes) == s->crc, GR_ERR_INPUT,
             "%s: %" PRIu64 " bytes at byte %" PRIu64 ": checksum differs", path, p->bytes, p->offset);
out:
    if (fd >= 0) close(fd);
    return st;
}

gr_status gr_ckpt_read(const gr_ckpt *ck, const gr_ckpt_piece *p)
{
    gr_status                 st = GR_OK;
    const gr_manifest        *m = ck->m;
    const gr_manifest_tensor *t;
    part                      r;

    GR_TRY(gr_ckpt_fits(ck, p));
    t = gr_manifest_find(m, p->name);
    for (int64_t done = 0, i = piece_at(m, t, p->first); done < p->count; i++) {
        done += part_of(&m->piece[i], p, done, &r);
        GR_TRY(read_part(ck, &m->piece[i], &r));
    }
out:
    return st;
}

/* ---- everything: who reads what --------------------------------------------------------------------- */

static gr_status add_part(load *l, const part *p)
{
    gr_status st = GR_OK;

    if (l->n == l->room) {
        l->room = l->room ? 2 * l->room : 256;
        GR_TRY(gr_realloc(&l->part, (uint64_t)l->room, sizeof *l->part, "parts of a checkpoint"));
    }
    l->part[l->n++] = *p;
out:
    return st;
}

static int by_place(const void *pa, const void *pb)
{
    const part *a = pa, *b = pb;

    if (a->shard != b->shard) return a->shard < b->shard ? -1 : 1;
    return (a->offset > b->offset) - (a->offset < b->offset);
}

static gr_status list_parts(load *l, const gr_ckpt_piece *piece, int64_t n)
{
    gr_status          st = GR_OK;
    const gr_manifest *m = l->ck->m;
    part               r;

    for (int64_t k = 0; k < n; k++) {
        const gr_ckpt_piece      *p = &piece[k];
        const gr_manifest_tensor *t = gr_manifest_find(m, p->name);

        if (!t || !same_shape(t, p) || !has_rows(t, p)) continue; /* the caller asks gr_ckpt_fits */
        for (int64_t done = 0, i = piece_at(m, t, p->first); done < p->count; i++) {
            done += part_of(&m->piece[i], p, done, &r);
            GR_TRY(add_part(l, &r));
        }
    }
    if (l->n) qsort(l->part, (size_t)l->n, sizeof *l->part, by_place);
out:
    return st;
}

/* The chunk of a byte of the shard's file. */
static int64_t chunk_at(const load *l, int64_t shard, uint64_t offset)
{
    return l->base[shard] + (int64_t)((offset - GR_SEAL_BYTES) / CHUNK);
}

static gr_status count_chunks(load *l)
{
    gr_status          st = GR_OK;
    const gr_manifest *m = l->ck->m;
    uint64_t           n;

    GR_TRY(gr_alloc(&l->base, (uint64_t)m->n_shard + 1, sizeof *l->base, "chunks of shards"));
    for (int64_t i = 0; i < m->n_shard; i++)
        l->base[i + 1] = l->base[i] + (int64_t)((m->shard[i].bytes + CHUNK - 1) / CHUNK);
    n = (uint64_t)l->base[m->n_shard];
    GR_TRY(gr_alloc(&l->owner, n, sizeof *l->owner, "owners of chunks"));
    GR_TRY(gr_alloc(&l->crc, n, sizeof *l->crc, "checksums of chunks"));
    GR_TRY(gr_alloc(&l->told, n, sizeof *l->told, "checksums of chunks"));
    GR_TRY(gr_alloc(&l->mine, n, sizeof *l->mine, "chunks to read"));
out:
    return st;
}

/* [collective] A chunk belongs to the last rank that wants bytes of it; what nobody wants is dealt. */
static void deal_chunks(load *l)
{
    const int     rank = gr_comm_rank(l->c);
    const int64_t n = l->base[l->ck->m->n_shard];
    int64_t       idle = 0, at = 0, first, count;

    for (int64_t i = 0; i < l->n; i++) {
        const part *p = &l->part[i];
        for (int64_t k = chunk_at(l, p->shard, p->offset); k <= chunk_at(l, p->shard, p->offset + p->bytes - 1); k++)
            l->mine[k] = true;
    }
    for (int64_t k = 0; k < n; k++) l->owner[k] = l->mine[k] ? rank : NOBODY;
    gr_max_i64(l->c, l->owner, n);
    for (int64_t k = 0; k < n; k++) idle += l->owner[k] == NOBODY;
    gr_share(idle, rank, gr_comm_size(l->c), &first, &count);
    for (int64_t k = 0; k < n; k++) {
        if (l->owner[k] != NOBODY) continue;
        if (at >= first && at < first + count) {
            l->owner[k] = rank;
            l->mine[k] = true;
        }
        at++;
    }
}

/* ---- everything: reading ---------------------------------------------------------------------------- */

/* n bytes from byte `offset` of the shard on, as far as they are wanted. */
static void copy_wanted(load *l, const char *data, uint64_t offset, uint64_t n)
{
    const uint64_t end = offset + n;

    for (int64_t i = l->next; i < l->last && l->part[i].offset < end; i++) {
        const part    *p = &l->part[i];
        const uint64_t from = p->offset > offset ? p->offset : offset, to = least(p->offset + p->bytes, end);
        if (from < to) memcpy(p->to + (from - p->offset), data + (from - offset), to - from);
    }
    while (l->next < l->last && l->part[l->next].offset + l->part[l->next].bytes <= end) l->next++;
}

/* [look] Bytes of a shard, cut where its chunks end: summed, then copied from the processor's cache. */
static void look(void *user, const char *data, uint64_t offset, uint64_t n)
{
    load *l = user;

    for (uint64_t k; n > 0; n -= k, offset += k, data += k) {
        int64_t *crc = &l->crc[chunk_at(l, l->shard, offset)];

        k = least(n, CHUNK - (offset - GR_SEAL_BYTES) % CHUNK);
        *crc = gr_crc32c((uint32_t)*crc, data, k);
        copy_wanted(l, data, offset, k);
    }
}

/* The chunks of shard i that are read here, neighbours together. */
static gr_status list_stretches(const load *l, int64_t i, gr_stretch **out, int64_t *n)
{
    gr_status      st = GR_OK;
    const int64_t  chunks = l->base[i + 1] - l->base[i];
    const bool    *mine = l->mine + l->base[i];
    const uint64_t end = GR_SEAL_BYTES + l->ck->m->shard[i].bytes;
    gr_stretch    *s = NULL;

    *n = 0;
    GR_TRY(gr_alloc(&s, (uint64_t)chunks / 2 + 1, sizeof *s, "stretches of a shard"));
    for (int64_t k = 0; k < chunks; k++) {
        if (!mine[k]) continue;
        if (k == 0 || !mine[k - 1]) s[(*n)++].begin = GR_SEAL_BYTES + (uint64_t)k * CHUNK;
        s[*n - 1].end = least(GR_SEAL_BYTES + (uint64_t)(k + 1) * CHUNK, end);
    }
    *out = s;
    s = NULL;
out:
    gr_free(&s);
    return st;
}

static gr_status read_shard(load *l, int64_t i)
{
    gr_status   st = GR_OK;
    gr_stretch *s = NULL;
    int64_t     n = 0;
    char        path[GR_PATH_MAX];
    int         fd = -1;

    l->shard = i;
    l->next = l->last;
    while (l->last < l->n && l->part[l->last].shard == i) l->last++;
    GR_TRY(list_stretches(l, i, &s, &n));
    if (n == 0) goto out;
    GR_TRY(open_shard(l->ck, i, path, &fd));
    GR_TRY(gr_stream(fd, path, s, n, true, look, l));
out:
    if (fd >= 0) close(fd);
    gr_free(&s);
    return st;
}

static gr_status read_mine(load *l)
{
    gr_status st = GR_OK;

    for (int64_t i = 0; i < l->ck->m->n_shard; i++) GR_TRY(read_shard(l, i));
out:
    return st;
}

/* ---- everything: is it good? -------------------------------------------------------------------------- */

/* [collective] The owners' checksums, for all. */
static void tell(load *l)
{
    const int64_t n = l->base[l->ck->m->n_shard];

    for (int64_t k = 0; k < n; k++) l->told[k] = l->owner[k] == gr_comm_rank(l->c) ? l->crc[k] : 0;
    gr_sum_i64(l->c, l->told, n);
}

static gr_status check_seal(const load *l, int64_t i)
{
    gr_status      st = GR_OK;
    const int64_t *told = l->told + l->base[i], chunks = l->base[i + 1] - l->base[i];
    gr_seal        seal = l->ck->m->shard[i];
    int64_t       *block = NULL;
    uint32_t       crc;
    char           path[GR_PATH_MAX];

    GR_TRY(gr_ckpt_shard_path(l->ck, i, path));
    GR_TRY(gr_alloc(&block, (uint64_t)(chunks / CHUNKS + 1), sizeof *block, "block checksums"));
    for (int64_t k = 0; k < chunks; k++)
        block[k / CHUNKS] = gr_crc32c_combine((uint32_t)block[k / CHUNKS], (uint32_t)told[k],
                                              least(CHUNK, seal.bytes - (uint64_t)k * CHUNK));
    snprintf(seal.kind, sizeof seal.kind, "%s", GR_CKPT_KIND);
    crc = gr_seal_fold(&seal, block);
    GR_CHECK(crc == seal.crc, GR_ERR_INPUT, "%s: checksum %08" PRIx32 ", expected %08" PRIx32 ": the file is damaged",
             path, crc, seal.crc);
out:
    gr_free(&block);
    return st;
}

/* What was read here is what the owners read, and this rank's share of the seals is good. */
static gr_status check_mine(const load *l)
{
    gr_status          st = GR_OK;
    const gr_manifest *m = l->ck->m;
    const int64_t      n = l->base[m->n_shard];

    for (int64_t k = 0; k < n; k++)
        GR_CHECK(!l->mine[k] || l->crc[k] == l->told[k], GR_ERR_IO,
                 "%s: two ranks read different bytes of the same file", l->ck->path);
    for (int64_t i = gr_comm_rank(l->c); i < m->n_shard; i += gr_comm_size(l->c)) GR_TRY(check_seal(l, i));
out:
    return st;
}

gr_status gr_ckpt_load(const gr_ckpt *ck, const gr_comm *c, const gr_ckpt_piece *piece, int64_t n)
{
    gr_status st = GR_OK;
    load      l = {.ck = ck, .c = c};

    st = list_parts(&l, piece, n);
    if (st == GR_OK) st = count_chunks(&l);
    GR_TRY(gr_agree(c, st));
    deal_chunks(&l);
    GR_TRY(gr_agree(c, read_mine(&l)));
    tell(&l);
    GR_TRY(gr_agree(c, check_mine(&l)));
out:
    gr_free(&l.part);
    gr_free(&l.base);
    gr_free(&l.owner);
    gr_free(&l.crc);
    gr_free(&l.told);
    gr_free(&l.mine);
    return st;
}
