#include "store/checkpoint.h"
#include "store/checkpoint_room.h"
#include "store/finite.h"
#include "store/h5.h"
#include "store/json_seal.h"
#include "store/manifest.h"
#include "store/seal.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include "util/mem.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- finding a good one ----------------------------------------------------------------------- */

static gr_status parse(void *manifest, const char *text, uint64_t n, const char *name)
{
    return gr_manifest_parse(manifest, text, n, name);
}

/* [collective] The checkpoint in directory `path`, which must be of `step` if that is not -1; n wanted pieces of it. */
static gr_status open_at(gr_ckpt **out, const gr_comm *c, const char *path, int64_t step, const gr_ckpt_piece *piece,
                         int64_t n)
{
    gr_status st = GR_OK;
    gr_ckpt  *ck = NULL;
    char      manifest[GR_PATH_MAX];

    st = gr_alloc(&ck, 1, sizeof *ck, "checkpoint");
    if (st == GR_OK) st = gr_path(ck->path, "%s", path);
    if (st == GR_OK) st = gr_path(manifest, "%s/manifest.json", path);
    GR_TRY(gr_agree(c, st));
    GR_TRY(gr_json_share(c, manifest, parse, &ck->m));
    GR_CHECK0(step < 0 || ck->m->step == step, GR_ERR_INPUT, "%s: says it is step %" PRId64, manifest, ck->m->step);
    GR_TRY(gr_ckpt_load(ck, c, piece, n));
    *out = ck;
    ck = NULL;
out:
    gr_ckpt_close(&ck);
    return st;
}

/* [collective] */
static gr_status open_step(gr_ckpt **out, const gr_comm *c, const char *dir, int64_t step, const gr_ckpt_piece *piece,
                           int64_t n)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];

    GR_TRY(gr_agree(c, gr_ckpt_step_path(path, dir, step)));
    GR_TRY(open_at(out, c, path, step, piece, n));
out:
    return st;
}

/* [collective] The newest step below `limit` that is there, damaged or not; -1: none. */
static gr_status newest(const gr_comm *c, const char *dir, int64_t limit, int64_t *step)
{
    gr_status st = GR_OK;
    int64_t  *list = NULL, n = 0;

    *step = -1;
    if (gr_comm_rank(c) == 0) st = gr_ckpt_list(dir, &list, &n);
    GR_TRY(gr_agree(c, st));
    while (n > 0 && list[n - 1] >= limit) n--;
    if (n > 0) *step = list[n - 1];
    gr_bcast(c, step, sizeof *step, 0);
out:
    gr_free(&list);
    return st;
}

/* [collective] */
static gr_status set_aside(const gr_ckpt_dir *d, int64_t step)
{
    gr_status st = GR_OK;
    char      to[GR_PATH_MAX];

    if (gr_comm_rank(d->c) == 0) {
        st = gr_ckpt_rename(d, step, "bad-", to);
        if (st == GR_OK) gr_log("step %" PRId64 " is damaged and set aside as %s", step, to);
    }
    return gr_agree(d->c, st);
}

gr_status gr_ckpt_open_newest(gr_ckpt **out, gr_ckpt_dir *d, const gr_ckpt_piece *piece, int64_t n)
{
    gr_status st = GR_OK;
    gr_ckpt  *ck = NULL;
    int64_t   step, n_bad = 0;

    for (;;) {
        GR_TRY(newest(d->c, d->path, INT64_MAX, &step));
        if (step < 0) break;
        st = open_step(&ck, d->c, d->path, step, piece, n);
        if (st == GR_OK && gr_comm_rank(d->c) == 0) gr_ckpt_mark(d, step, true);
        if (st == GR_OK) break;
        if (st != GR_ERR_INPUT && st != GR_ERR_IO) goto out; /* memory, not the checkpoint */
        GR_TRY(set_aside(d, step));
        n_bad++;
    }
    if (step < 0 && n_bad > 0) {
        st = GR_ERR_INPUT;
        if (gr_comm_rank(d->c) == 0)
            gr_fail(__FILE__, __LINE__, st,
                    "%s: all %" PRId64 " checkpoints are damaged; the next run would start from the beginning", d->path,
                    n_bad);
        goto out;
    }
    *out = ck;
    ck = NULL;
out:
    gr_ckpt_close(&ck);
    return st;
}

/* [local] DIR/NAME is there. */
static bool holds(const char *dir, const char *name)
{
    char path[GR_PATH_MAX];

    return gr_path(path, "%s/%s", dir, name) == GR_OK && gr_exists(path);
}

bool gr_ckpt_is_at(const char *path)
{
    int64_t *step = NULL, n = 0;

    if (holds(path, "manifest.json")) return true;
    if (holds(path, ".generation") && gr_ckpt_list(path, &step, &n) != GR_OK) n = 0;
    gr_free(&step);
    return n > 0;
}

gr_status gr_ckpt_open_at(gr_ckpt **out, const gr_comm *c, const char *path)
{
    gr_status st = GR_OK;
    int64_t   step = INT64_MAX, one;

    one = gr_comm_rank(c) == 0 && holds(path, "manifest.json");
    gr_max_i64(c, &one, 1);
    if (one) return open_at(out, c, path, -1, NULL, 0);
    for (;;) {
        GR_TRY(newest(c, path, step, &step));
        GR_CHECK0(step >= 0, GR_ERR_INPUT, "%s: no good checkpoint", path);
        st = open_step(out, c, path, step, NULL, 0);
        if (st != GR_ERR_INPUT && st != GR_ERR_IO) break;
        gr_log0("%s: step %" PRId64 " cannot be read, the one before is tried", path, step);
    }
out:
    return st;
}

void gr_ckpt_close(gr_ckpt **pck)
{
    gr_ckpt *ck = *pck;

    if (!ck) return;
    gr_manifest_close(&ck->m);
    gr_free(pck);
}

int64_t gr_ckpt_step(const gr_ckpt *ck)
{
    return ck->m->step;
}

const char *gr_ckpt_path(const gr_ckpt *ck)
{
    return ck->path;
}

const char *gr_ckpt_id(const gr_ckpt *ck)
{
    return ck->m->id;
}

bool gr_ckpt_has(const gr_ckpt *ck, const char *tensor)
{
    return gr_manifest_find(ck->m, tensor);
}

int64_t gr_ckpt_count(const gr_ckpt *ck)
{
    return ck->m->n_tensor;
}

gr_ckpt_piece gr_ckpt_tensor(const gr_ckpt *ck, int64_t i)
{
    const gr_manifest_tensor *t = &ck->m->tensor[i];
    gr_ckpt_piece             p = {.name = t->name, .dtype = t->dtype, .rank = t->rank, .count = t->dim[0]};

    memcpy(p.dim, t->dim, sizeof p.dim);
    return p;
}

const char *gr_ckpt_meta(const gr_ckpt *ck)
{
    return ck->m->meta;
}

/* ---- looking, without a lock ------------------------------------------------------------------------ */

enum { LOOK_BYTES = 4 << 20 /* read at once: stays in a cache */ };

gr_status gr_ckpt_look(gr_ckpt **out, const char *dir)
{
    gr_status st = GR_OK;
    gr_ckpt  *ck = NULL;
    char      path[GR_PATH_MAX], expected[64];

    GR_TRY(gr_alloc(&ck, 1, sizeof *ck, "checkpoint"));
    GR_TRY(gr_path(ck->path, "%s", dir));
    GR_TRY(gr_path(path, "%s/manifest.json", dir));
    GR_TRY(gr_json_share(NULL, path, parse, &ck->m));
    snprintf(expected, sizeof expected, "step-%08" PRId64, ck->m->step);
    GR_CHECK(strlen(dir) >= strlen(expected) && !strcmp(dir + strlen(dir) - strlen(expected), expected), GR_ERR_INPUT,
             "%s: says it is step %" PRId64, path, ck->m->step);
    *out = ck;
    ck = NULL;
out:
    gr_ckpt_close(&ck);
    return st;
}

int64_t gr_ckpt_shards(const gr_ckpt *ck)
{
    return ck->m->n_shard;
}

gr_status gr_ckpt_shard_path(const gr_ckpt *ck, int64_t i, char path[GR_PATH_MAX])
{
    char name[GR_SHARD_NAME];

    gr_shard_name(name, i, ck->m->n_shard);
    return gr_path(path, "%s/%s", ck->path, name);
}

/* One piece, in parts of LOOK_BYTES. */
static gr_status check_piece(gr_h5 *f, const char *path, const gr_manifest_tensor *t, const gr_manifest_piece *s,
                             bool values)
{
    gr_status st = GR_OK;
    char      name[GR_PATH_MAX];
    gr_dtype  dtype;
    int       rank;
    int64_t   dim[GR_MAX_DIM], row = 1, part, n;
    uint64_t  offset = 0;
    uint32_t  crc = 0;
    void     *room = NULL;

    GR_TRY(gr_piece_name(name, t->name, t->dim[0], s->first, s->count));
    GR_TRY(gr_h5_info(f, name, &dtype, &rank, dim));
    GR_CHECK(dtype == t->dtype && rank == t->rank && dim[0] == s->count &&
                 !memcmp(dim + 1, t->dim + 1, sizeof dim - sizeof *dim),
             GR_ERR_INPUT, "%s: dataset \"%s\" has not the type and shape that the manifest says", path, name);
    GR_TRY(gr_h5_offset(f, name, &offset));
    GR_CHECK(offset == s->offset, GR_ERR_INPUT,
             "%s: dataset \"%s\" begins at byte %" PRIu64 ", the manifest says %" PRIu64, path, name, offset,
             s->offset);
    for (int d = 1; d < rank; d++) row *= dim[d];
    part = LOOK_BYTES / (row * gr_dtype_size(dtype));
    if (part < 1) part = 1;
    if (part > s->count) part = s->count;
    GR_TRY(gr_alloc(&room, (uint64_t)(part * row), (uint64_t)gr_dtype_size(dtype), "part of a dataset"));
    for (int64_t at = 0; at < s->count; at += n) {
        n = s->count - at < part ? s->count - at : part;
        GR_TRY(gr_h5_read(f, name, dtype, at, n, room));
        crc = gr_crc32c(crc, room, (size_t)(n * row * gr_dtype_size(dtype)));
        GR_CHECK(!values || gr_first_not_finite(dtype, room, n * row) < 0, GR_ERR_INPUT,
                 "%s: dataset \"%s\": NaN or Inf", path, name);
    }
    GR_CHECK(crc == s->crc, GR_ERR_INPUT, "%s: dataset \"%s\": checksum %08" PRIx32 ", the manifest says %08" PRIx32,
             path, name, crc, s->crc);
out:
    gr_free(&room);
    return st;
}

gr_status gr_ckpt_check(gr_ckpt *ck, int64_t i, bool values)
{
    gr_status          st = GR_OK;
    const gr_manifest *m = ck->m;
    gr_h5             *f = NULL;
    const char *const *names;
    int64_t            found = 0, expected = 0;
    char               path[GR_PATH_MAX];

    GR_TRY(gr_ckpt_shard_path(ck, i, path));
    GR_TRY(gr_h5_open(&f, path, GR_CKPT_KIND));
    GR_CHECK(!strcmp(gr_h5_seal_of(f), m->shard[i].id), GR_ERR_INPUT, "%s: seal %s, the manifest says %s: another file",
             path, gr_h5_seal_of(f), m->shard[i].id);
    for (int64_t t = 0; t < m->n_tensor; t++)
        for (int64_t p = m->tensor[t].piece; p < m->tensor[t].piece + m->tensor[t].n_piece; p++) {
            if (m->piece[p].shard != i) continue;
            GR_TRY(check_piece(f, path, &m->tensor[t], &m->piece[p], values));
            expected++;
        }
    GR_TRY(gr_h5_names(f, &names, &found));
    GR_CHECK(found == expected, GR_ERR_INPUT, "%s: %" PRId64 " datasets, the manifest says %" PRId64, path, found,
             expected);
out:
    gr_h5_close(&f);
    return st;
}
