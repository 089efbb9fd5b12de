#include "store/manifest.h"
#include "store/json_seal.h"
#include "util/crc32c.h"
#include "util/mem.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT = 2, MAX_WORLD = 10000000, N_KEYS = 7, N_SHARD_KEYS = 3, N_TENSOR_KEYS = 4, N_PIECE = 5 };

void gr_shard_name(char dst[GR_SHARD_NAME], int64_t i, int64_t n)
{
    snprintf(dst, GR_SHARD_NAME, "shard-%05d-of-%05d.h5", (int)i, (int)n); /* below GR_MAX_SHARDS */
}

gr_status gr_piece_name(char dst[GR_PATH_MAX], const char *tensor, int64_t rows, int64_t first, int64_t count)
{
    return count == rows ? gr_path(dst, "%s", tensor) : gr_path(dst, "%s@%" PRId64, tensor, first);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Exactly eight lower-case hex digits. */
static bool read_crc(const json_t *v, uint32_t *crc)
{
    const char *s = json_string_value(v);
    char        again[9];

    if (!s || sscanf(s, "%8" SCNx32, crc) != 1) return false;
    snprintf(again, sizeof again, "%08" PRIx32, *crc);
    return !strcmp(s, again);
}

static gr_status read_shards(gr_manifest *m, const json_t *list, const char *name)
{
    gr_status   st = GR_OK;
    char        expected[GR_SHARD_NAME];
    const char *file;
    int64_t     bytes;

    GR_CHECK(json_is_array(list) && json_array_size(list) <= GR_MAX_SHARDS, GR_ERR_INPUT,
             "%s: shards: not a list of at most %d", name, GR_MAX_SHARDS);
    m->n_shard = (int64_t)json_array_size(list);
    GR_TRY(gr_alloc(&m->shard, (uint64_t)m->n_shard, sizeof *m->shard, "list of shards"));
    for (int64_t i = 0; i < m->n_shard; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        gr_seal      *s = &m->shard[i];

        gr_shard_name(expected, i, m->n_shard);
        GR_TRY(gr_json_get_str(v, name, "file", &file));
        GR_CHECK(!strcmp(file, expected), GR_ERR_INPUT, "%s: shard %" PRId64 " is \"%.60s\", expected \"%s\"", name, i,
                 file, expected);
        GR_TRY(gr_json_get_int(v, name, "bytes", GR_SEAL_BYTES + 1, INT64_MAX, &bytes));
        GR_CHECK(read_crc(json_object_get(v, "crc32c"), &s->crc) && json_object_size(v) == N_SHARD_KEYS, GR_ERR_INPUT,
                 "%s: shard %" PRId64 ": crc32c is not 8 hex digits, or there is another member", name, i);
        s->bytes = (uint64_t)bytes - GR_SEAL_BYTES;
        snprintf(s->id, sizeof s->id, "%08" PRIx32 "%08" PRIx32, (uint32_t)s->bytes, s->crc); /* as in store/seal.h */
    }
out:
    return st;
}

/* Name, type and shape of a tensor. */
static gr_status read_tensor(gr_manifest_tensor *t, const json_t *v, const char *name)
{
    gr_status     st = GR_OK;
    const char   *dtype = NULL;
    const json_t *shape = json_object_get(v, "shape");
    int64_t       bytes;
    int           found = -1;

    GR_TRY(gr_json_get_str(v, name, "name", &t->name));
    GR_CHECK(*t->name && strlen(t->name) <= GR_TENSOR_NAME && !strpbrk(t->name, "/@"), GR_ERR_INPUT,
             "%s: \"%.60s\" is no tensor's name", name, t->name);
    GR_TRY(gr_json_get_str(v, name, "dtype", &dtype));
    for (int d = 0; d <= GR_U16; d++)
        if (!strcmp(dtype, gr_dtype_name((gr_dtype)d))) found = d;
    GR_CHECK(found >= 0, GR_ERR_INPUT, "%s: tensor \"%s\": unknown type \"%.20s\"", name, t->name, dtype);
    t->dtype = (gr_dtype)found;
    GR_CHECK(json_is_array(shape) && json_array_size(shape) <= GR_MAX_DIM && json_object_size(v) == N_TENSOR_KEYS,
             GR_ERR_INPUT, "%s: tensor \"%s\": shape is not a list of at most %d, or there is another member", name,
             t->name, GR_MAX_DIM);
    t->rank = (int)json_array_size(shape);
    bytes = gr_dtype_size(t->dtype);
    for (int d = 0; d < GR_MAX_DIM; d++) {
        t->dim[d] = d < t->rank ? json_integer_value(json_array_get(shape, (size_t)d)) : 1;
        GR_CHECK(t->dim[d] > 0 && !__builtin_mul_overflow(bytes, t->dim[d], &bytes), GR_ERR_INPUT,
                 "%s: tensor \"%s\": impossible shape", name, t->name);
    }
out:
    return st;
}

static bool read_piece(const json_t *v, gr_manifest_piece *p)
{
    int64_t x[N_PIECE - 1];
    bool    good = json_array_size(v) == N_PIECE && read_crc(json_array_get(v, N_PIECE - 1), &p->crc);

    for (size_t i = 0; i < N_PIECE - 1; i++) {
        good = good && json_is_integer(json_array_get(v, i));
        x[i] = json_integer_value(json_array_get(v, i));
    }
    p->shard = x[0];
    p->first = x[1];
    p->count = x[2];
    p->offset = (uint64_t)x[3]; /* a negative one lies in no shard */
    return good;
}

/* Behind the seal, before the end. */
static bool in_shard(const gr_manifest_piece *p, const gr_seal *s)
{
    return p->offset >= GR_SEAL_BYTES && p->bytes <= s->bytes && p->offset - GR_SEAL_BYTES <= s->bytes - p->bytes;
}

/* The pieces of a tensor, in order: from row 0 to the last, without gap or overlap. */
static gr_status read_pieces(gr_manifest *m, gr_manifest_tensor *t, const json_t *list, const char *name)
{
    gr_status    st = GR_OK;
    const size_t n = json_array_size(list);
    int64_t      at = 0, row = gr_dtype_size(t->dtype);

    for (int d = 1; d < t->rank; d++) row *= t->dim[d];
    t->piece = m->n_piece;
    t->n_piece = (int64_t)n;
    if (m->n_piece + t->n_piece > m->room_piece) {
        m->room_piece = 2 * (m->n_piece + t->n_piece);
        GR_TRY(gr_realloc(&m->piece, (uint64_t)m->room_piece, sizeof *m->piece, "list of pieces"));
    }
    for (size_t i = 0; i < n; i++) {
        const json_t      *v = json_array_get(list, i);
        gr_manifest_piece *p = &m->piece[m->n_piece++];

        GR_CHECK(read_piece(v, p), GR_ERR_INPUT,
                 "%s: tensor \"%s\": piece %zu is not [shard, first, count, offset, crc32c]", name, t->name, i);
        GR_CHECK(p->shard >= 0 && p->shard < m->n_shard, GR_ERR_INPUT,
                 "%s: tensor \"%s\": shard %" PRId64 " of %" PRId64, name, t->name, p->shard, m->n_shard);
        GR_CHECK(p->first == at, GR_ERR_INPUT, "%s: tensor \"%s\": rows from %" PRId64 " on are %s", name, t->name,
                 p->first < at ? p->first : at, p->first < at ? "there twice" : "missing");
        GR_CHECK(p->count > 0 && p->count <= t->dim[0] - at, GR_ERR_INPUT,
                 "%s: tensor \"%s\": %" PRId64 " rows at %" PRId64 " of %" PRId64, name, t->name, p->count, at,
                 t->dim[0]);
        p->bytes = (uint64_t)(p->count * row);
        GR_CHECK(in_shard(p, &m->shard[p->shard]), GR_ERR_INPUT,
                 "%s: tensor \"%s\": %" PRIu64 " bytes at byte %" PRIu64 " are not in shard %" PRId64, name, t->name,
                 p->bytes, p->offset, p->shard);
        at += p->count;
    }
    GR_CHECK(at == t->dim[0], GR_ERR_INPUT, "%s: tensor \"%s\": rows from %" PRId64 " on are missing", name, t->name,
             at);
out:
    return st;
}

static gr_status read_tensors(gr_manifest *m, const json_t *list, const char *name)
{
    gr_status st = GR_OK;

    GR_CHECK(json_is_array(list), GR_ERR_INPUT, "%s: tensors: not a list", name);
    m->n_tensor = (int64_t)json_array_size(list);
    GR_TRY(gr_alloc(&m->tensor, (uint64_t)m->n_tensor, sizeof *m->tensor, "list of tensors"));
    for (int64_t i = 0; i < m->n_tensor; i++) {
        const json_t *v = json_array_get(list, (size_t)i);

        GR_TRY(read_tensor(&m->tensor[i], v, name));
        GR_CHECK(i == 0 || strcmp(m->tensor[i - 1].name, m->tensor[i].name) < 0, GR_ERR_INPUT,
                 "%s: tensor \"%s\" is out of order", name, m->tensor[i].name);
        GR_TRY(read_pieces(m, &m->tensor[i], json_object_get(v, "pieces"), name));
    }
out:
    return st;
}

gr_status gr_manifest_parse(gr_manifest **out, const char *text, uint64_t n, const char *name)
{
    gr_status    st = GR_OK;
    gr_manifest *m = NULL;
    const char  *attempt;
    int64_t      format;

    GR_TRY(gr_alloc(&m, 1, sizeof *m, "manifest"));
    GR_TRY(gr_json_unseal(text, n, name, &m->tree));
    GR_TRY(gr_json_get_int(m->tree, name, "format", FORMAT, FORMAT, &format));
    GR_CHECK(json_object_size(m->tree) == N_KEYS, GR_ERR_INPUT, "%s: %zu members, expected %d", name,
             json_object_size(m->tree), N_KEYS);
    GR_TRY(gr_json_get_int(m->tree, name, "step", 0, INT64_MAX, &m->step));
    GR_TRY(gr_json_get_str(m->tree, name, "attempt", &attempt));
    GR_TRY(gr_json_get_int(m->tree, name, "world", 1, MAX_WORLD, &m->world));
    GR_TRY(read_shards(m, json_object_get(m->tree, "shards"), name));
    GR_TRY(read_tensors(m, json_object_get(m->tree, "tensors"), name));
    GR_CHECK(json_is_object(json_object_get(m->tree, "meta")), GR_ERR_INPUT, "%s: meta: not an object", name);
    GR_TRY(gr_json_dump(json_object_get(m->tree, "meta"), 0, &m->meta));
    snprintf(m->id, sizeof m->id, "%08" PRIx32 "%08" PRIx32, (uint32_t)n, gr_crc32c(0, text, n));
    *out = m;
    m = NULL;
out:
    gr_manifest_close(&m);
    return st;
}

void gr_manifest_close(gr_manifest **pm)
{
    gr_manifest *m = *pm;

    if (!m) return;
    json_decref(m->tree);
    gr_free(&m->shard);
    gr_free(&m->tensor);
    gr_free(&m->piece);
    gr_free(&m->meta);
    gr_free(pm);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const gr_manifest_tensor *)a)->name, ((const gr_manifest_tensor *)b)->name);
}

const gr_manifest_tensor *gr_manifest_find(const gr_manifest *m, const char *name)
{
    const gr_manifest_tensor key = {.name = name};

    return m->n_tensor ? bsearch(&key, m->tensor, (size_t)m->n_tensor, sizeof *m->tensor, by_name) : NULL;
}

/* ---- making one ---------------------------------------------------------------------------- */

typedef struct entry {
    gr_piece_record r;
    const char     *name; /* not terminated: r.n_name bytes */
} entry;

static int by_name_and_row(const void *pa, const void *pb)
{
    const entry   *a = pa, *b = pb;
    const uint32_t n = a->r.n_name < b->r.n_name ? a->r.n_name : b->r.n_name;
    const int      order = memcmp(a->name, b->name, n);

    if (order) return order;
    if (a->r.n_name != b->r.n_name) return a->r.n_name < b->r.n_name ? -1 : 1;
    return (a->r.first > b->r.first) - (a->r.first < b->r.first);
}

static bool same_name(const entry *a, const entry *b)
{
    return a->r.n_name == b->r.n_name && !memcmp(a->name, b->name, a->r.n_name);
}

static bool same_tensor(const entry *a, const entry *b)
{
    return a->r.dtype == b->r.dtype && a->r.rank == b->r.rank && !memcmp(a->r.dim, b->r.dim, sizeof a->r.dim);
}

/* The records as a sorted array. */
static gr_status list_entries(const char *records, int64_t n, entry **out, int64_t *out_n)
{
    gr_status st = GR_OK;
    entry    *e = NULL;
    int64_t   count = 0, room = 0, at = 0;

    GR_TRY(gr_alloc(&e, 0, sizeof *e, "list of pieces"));
    while (at < n) {
        if (count == room) {
            room = room ? 2 * room : 1024;
            GR_TRY(gr_realloc(&e, (uint64_t)room, sizeof *e, "list of pieces"));
        }
        memcpy(&e[count].r, records + at, sizeof e->r);
        at += (int64_t)sizeof e->r;
        e[count].name = records + at;
        at += e[count].r.n_name;
        count++;
    }
    qsort(e, (size_t)count, sizeof *e, by_name_and_row);
    *out = e;
    *out_n = count;
    e = NULL;
out:
    gr_free(&e);
    return st;
}

static json_t *crc_text(uint32_t crc)
{
    char s[9];

    snprintf(s, sizeof s, "%08" PRIx32, crc);
    return json_string(s);
}

/* Like json_pack, these give NULL when memory ends or a string is not UTF-8; jansson's containers then say so. */
static json_t *shard_list(const gr_seal *shard, int64_t n)
{
    json_t *list = json_array();
    char    file[GR_SHARD_NAME];
    int     bad = !list;

    for (int64_t i = 0; i < n && !bad; i++) {
        gr_shard_name(file, i, n);
        bad = json_array_append_new(list, json_pack("{ss sI so}", "file", file, "bytes",
                                                    (json_int_t)(shard[i].bytes + GR_SEAL_BYTES), "crc32c",
                                                    crc_text(shard[i].crc)));
    }
    if (!bad) return list;
    json_decref(list);
    return NULL;
}

static json_t *tensor_object(const entry *e)
{
    json_t *shape = json_array();
    int     bad = !shape;

    for (int d = 0; d < e->r.rank && !bad; d++) bad = json_array_append_new(shape, json_integer(e->r.dim[d]));
    if (bad) {
        json_decref(shape);
        return NULL;
    }
    return json_pack("{ss% ss so s[]}", "name", e->name, (size_t)e->r.n_name, "dtype",
                     gr_dtype_name((gr_dtype)e->r.dtype), "shape", shape, "pieces");
}

/* GR_ERR_ARG: two ranks disagree about a tensor, or its name is not UTF-8. */
static gr_status tensor_list(const entry *e, int64_t n, json_t **out)
{
    gr_status st = GR_OK;
    json_t   *list = json_array(), *tensor = NULL;

    GR_CHECK(list, GR_ERR_NOMEM, "manifest");
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || !same_name(&e[i - 1], &e[i])) {
            tensor = tensor_object(&e[i]);
            GR_CHECK(!json_array_append_new(list, tensor), GR_ERR_ARG, "tensor \"%.*s\": the name is not UTF-8",
                     (int)e[i].r.n_name, e[i].name);
        } else {
            GR_CHECK(same_tensor(&e[i - 1], &e[i]), GR_ERR_ARG, "tensor \"%.*s\": pieces of different type or shape",
                     (int)e[i].r.n_name, e[i].name);
        }
        GR_CHECK(!json_array_append_new(json_object_get(tensor, "pieces"),
                                        json_pack("[IIIIo]", (json_int_t)e[i].r.shard, (json_int_t)e[i].r.first,
                                                  (json_int_t)e[i].r.count, (json_int_t)e[i].r.offset,
                                                  crc_text(e[i].r.crc))),
                 GR_ERR_NOMEM, "manifest");
    }
    *out = list;
    list = NULL;
out:
    json_decref(list);
    return st;
}

gr_status gr_manifest_compose(char **out, uint64_t *out_n, int64_t step, const char *attempt, int64_t world,
                              const gr_seal *shard, int64_t n_shard, const char *records, int64_t n, const char *meta)
{
    gr_status    st = GR_OK;
    entry       *e = NULL;
    int64_t      n_entry = 0;
    json_t      *tree = NULL, *tensors = NULL, *meta_tree = NULL;
    char        *text = NULL;
    uint64_t     n_text = 0;
    gr_manifest *check = NULL;

    if (gr_json_parse(meta, strlen(meta), "meta", &meta_tree) != GR_OK || !json_is_object(meta_tree))
        GR_FAIL(GR_ERR_ARG, "meta is not a JSON object");
    GR_TRY(list_entries(records, n, &e, &n_entry));
    GR_TRY(tensor_list(e, n_entry, &tensors));
    tree = json_pack("{si sI ss sI so sO sO}", "format", FORMAT, "step", (json_int_t)step, "attempt", attempt, "world",
                     (json_int_t)world, "shards", shard_list(shard, n_shard), "tensors", tensors, "meta", meta_tree);
    GR_CHECK(tree, GR_ERR_NOMEM, "manifest");
    GR_TRY(gr_json_seal(tree, &text, &n_text));
    if (gr_manifest_parse(&check, text, n_text, "the manifest to be written") != GR_OK)
        GR_FAIL(GR_ERR_ARG, "step %" PRId64 ": these pieces are not a checkpoint", step);
    *out = text;
    *out_n = n_text;
    text = NULL;
out:
    gr_manifest_close(&check);
    gr_free(&text);
    gr_free(&e);
    json_decref(tree);
    json_decref(tensors);
    json_decref(meta_tree);
    return st;
}
