#include "store/safetensors.h"
#include "store/widen.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/mem.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LIMIT_HEADER = 64 << 20, LIMIT_TENSORS = 1000000, LIMIT_NAME = 512, LIMIT_FILE_NAME = 200 };

/* All element types of the format, with their width in bits. */
static const struct {
    const char *name;
    int         bits;
    bool        readable;
    gr_dtype    dtype;
} type_of[] = {
    {"F32", 32, true, GR_F32}, {"BF16", 16, true, GR_BF16}, {"F16", 16, true, GR_F16}, {"F64", 64, false, GR_F64},
    {"I64", 64, false, 0},     {"U64", 64, false, 0},       {"C64", 64, false, 0},     {"I32", 32, false, 0},
    {"U32", 32, false, 0},     {"I16", 16, false, 0},       {"U16", 16, false, 0},     {"I8", 8, false, 0},
    {"U8", 8, false, 0},       {"BOOL", 8, false, 0},       {"F8_E4M3", 8, false, 0},  {"F8_E5M2", 8, false, 0},
    {"F8_E8M0", 8, false, 0},  {"F6_E2M3", 6, false, 0},    {"F6_E3M2", 6, false, 0},  {"F4", 4, false, 0},
};
enum { N_TYPE = sizeof type_of / sizeof *type_of };

typedef struct entry {
    const char *name; /* belongs to the JSON tree of its file */
    int64_t     i_file;
    int         type, rank;
    int64_t     dim[GR_MAX_DIM];
    uint64_t    begin, end; /* within the data */
} entry;

typedef struct file {
    int      fd;
    char    *path;
    json_t  *header;
    uint64_t data; /* offset of the data */
} file;

struct gr_st {
    file   *file;
    int64_t n_file;
    entry  *entry; /* sorted by name */
    int64_t n_entry;
};

/* ---- the header of one file ----------------------------------------------------------------- */

static gr_status shape_parse(const char *path, const json_t *shape, entry *e)
{
    gr_status     st = GR_OK;
    uint64_t      bits = (uint64_t)type_of[e->type].bits;
    size_t        i;
    const json_t *item;

    e->rank = (int)json_array_size(shape);
    for (i = 0; i < GR_MAX_DIM; i++) e->dim[i] = 1;
    json_array_foreach(shape, i, item)
    {
        const int64_t d = json_is_integer(item) ? json_integer_value(item) : -1;
        GR_CHECK(d >= 0, GR_ERR_INPUT, "%s: tensor \"%s\": shape[%zu] is not a size", path, e->name, i);
        GR_CHECK(!__builtin_mul_overflow(bits, (uint64_t)d, &bits), GR_ERR_INPUT, "%s: tensor \"%s\": shape overflows",
                 path, e->name);
        if (i < GR_MAX_DIM) e->dim[i] = d;
    }
    GR_CHECK(bits % 8 == 0 && bits / 8 == e->end - e->begin, GR_ERR_INPUT,
             "%s: tensor \"%s\": its shape needs %" PRIu64 " bytes, data_offsets give %" PRIu64, path, e->name,
             bits / 8, e->end - e->begin);
out:
    return st;
}

static gr_status entry_parse(const char *path, const char *name, const json_t *v, uint64_t n_data, entry *e)
{
    gr_status     st = GR_OK;
    const json_t *shape = json_object_get(v, "shape"), *offsets = json_object_get(v, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    const char   *dtype = json_string_value(json_object_get(v, "dtype"));

    GR_CHECK(*name && strlen(name) <= LIMIT_NAME, GR_ERR_INPUT, "%s: tensor \"%.40s...\": names have 1 to %d bytes",
             path, name, LIMIT_NAME);
    for (const char *p = name; *p; p++)
        GR_CHECK((unsigned char)*p >= 0x20, GR_ERR_INPUT, "%s: a tensor name with a control character", path);
    GR_CHECK(json_object_size(v) == 3 && dtype && json_is_array(shape) && json_array_size(offsets) == 2 &&
                 json_is_integer(begin) && json_is_integer(end),
             GR_ERR_INPUT, "%s: tensor \"%s\": expected {dtype: string, shape: [sizes], data_offsets: [begin, end]}",
             path, name);
    GR_CHECK(json_array_size(shape) <= INT32_MAX && json_integer_value(begin) >= 0 &&
                 json_integer_value(begin) <= json_integer_value(end) && (uint64_t)json_integer_value(end) <= n_data,
             GR_ERR_INPUT, "%s: tensor \"%s\": data_offsets %lld to %lld of %" PRIu64 " bytes", path, name,
             (long long)json_integer_value(begin), (long long)json_integer_value(end), n_data);
    e->name = name;
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    for (e->type = 0; e->type < N_TYPE && strcmp(dtype, type_of[e->type].name) != 0; e->type++) continue;
    GR_CHECK(e->type < N_TYPE, GR_ERR_INPUT, "%s: tensor \"%s\": unknown dtype \"%.20s\"", path, name, dtype);
    GR_TRY(shape_parse(path, shape, e));
out:
    return st;
}

static gr_status metadata_check(const char *path, json_t *v)
{
    gr_status   st = GR_OK;
    const char *key;
    json_t     *item;

    GR_CHECK(json_is_object(v), GR_ERR_INPUT, "%s: __metadata__ is not an object", path);
    json_object_foreach(v, key, item)
        GR_CHECK(json_is_string(item), GR_ERR_INPUT, "%s: __metadata__: \"%.60s\" is not a string", path, key);
out:
    return st;
}

static int by_place(const void *a, const void *b)
{
    const entry *x = a, *y = b;

    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* The tensors of a file tile its data: no byte is unused, none is used twice. */
static gr_status tiling_check(const char *path, entry *e, int64_t n, uint64_t n_data)
{
    gr_status st = GR_OK;
    uint64_t  at = 0;

    if (n) qsort(e, (size_t)n, sizeof *e, by_place);
    for (int64_t i = 0; i < n; i++) {
        GR_CHECK(e[i].begin == at, GR_ERR_INPUT,
                 "%s: tensor \"%s\": begins at byte %" PRIu64 " of the data, %s at %" PRIu64, path, e[i].name,
                 e[i].begin, e[i].begin < at ? "overlaps the one that ends" : "leaves a gap from the one that ends",
                 at);
        at = e[i].end;
    }
    GR_CHECK(at == n_data, GR_ERR_INPUT, "%s: %" PRIu64 " bytes of data, the header accounts for %" PRIu64, path,
             n_data, at);
out:
    return st;
}

static gr_status header_read(file *f, uint64_t size, uint64_t *n_data)
{
    gr_status st = GR_OK;
    uint8_t   le[8];
    uint64_t  n = 0;
    char     *text = NULL;

    GR_CHECK(size >= sizeof le, GR_ERR_INPUT, "%s: %" PRIu64 " bytes: too short for a safetensors file", f->path, size);
    GR_TRY(gr_pread_all(f->fd, le, sizeof le, 0, f->path));
    for (int i = 7; i >= 0; i--) n = n << 8 | le[i];
    GR_CHECK(n >= 2 && n <= LIMIT_HEADER && n <= size - sizeof le, GR_ERR_INPUT,
             "%s: header of %" PRIu64 " bytes in a file of %" PRIu64
             " (at most %d are read): not a safetensors file, or truncated",
             f->path, n, size, LIMIT_HEADER);
    GR_TRY(gr_alloc(&text, n, 1, f->path));
    GR_TRY(gr_pread_all(f->fd, text, n, sizeof le, f->path));
    GR_CHECK(*text == '{', GR_ERR_INPUT, "%s: the header does not start with {", f->path);
    GR_TRY(gr_json_parse(text, n, f->path, &f->header));
    f->data = sizeof le + n;
    *n_data = size - f->data;
out:
    gr_free(&text);
    return st;
}

/* Open one more file and append its tensors. */
static gr_status file_add(gr_st *s, const char *path)
{
    gr_status   st = GR_OK;
    file       *f = NULL;
    uint64_t    size = 0, n_data = 0;
    int64_t     n = 0, room;
    const char *key;
    json_t     *v;

    GR_TRY(gr_realloc(&s->file, (uint64_t)s->n_file + 1, sizeof *s->file, "safetensors files"));
    f = &s->file[s->n_file++];
    f->fd = -1;
    GR_TRY(gr_strdup(&f->path, path));
    GR_TRY(gr_open_input(path, &f->fd, &size));
    GR_TRY(header_read(f, size, &n_data));

    room = s->n_entry + (int64_t)json_object_size(f->header);
    GR_CHECK(room <= LIMIT_TENSORS, GR_ERR_INPUT, "%s: more than %d tensors", path, LIMIT_TENSORS);
    GR_TRY(gr_realloc(&s->entry, (uint64_t)room, sizeof *s->entry, "tensor table"));
    json_object_foreach(f->header, key, v)
    {
        if (!strcmp(key, "__metadata__")) {
            GR_TRY(metadata_check(path, v));
            continue;
        }
        GR_TRY(entry_parse(path, key, v, n_data, &s->entry[s->n_entry + n]));
        s->entry[s->n_entry + n++].i_file = s->n_file - 1;
    }
    GR_TRY(tiling_check(path, s->entry + s->n_entry, n, n_data));
    s->n_entry += n;
out:
    return st;
}

/* ---- one name space over the files ------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static const entry *look_up(const gr_st *s, const char *name)
{
    const entry key = {.name = name};

    return s->n_entry ? bsearch(&key, s->entry, (size_t)s->n_entry, sizeof key, by_name) : NULL;
}

static gr_status names_sort(gr_st *s)
{
    gr_status st = GR_OK;
    entry    *e = s->entry;

    if (s->n_entry) qsort(e, (size_t)s->n_entry, sizeof *e, by_name);
    for (int64_t i = 1; i < s->n_entry; i++)
        GR_CHECK(strcmp(e[i - 1].name, e[i].name) != 0, GR_ERR_INPUT, "%s: tensor \"%s\" is also in %s",
                 s->file[e[i].i_file].path, e[i].name, s->file[e[i - 1].i_file].path);
out:
    return st;
}

gr_status gr_st_open(gr_st **out, const char *path)
{
    gr_status st = GR_OK;
    gr_st    *s = NULL;

    GR_TRY(gr_alloc(&s, 1, sizeof *s, "safetensors"));
    GR_TRY(file_add(s, path));
    GR_TRY(names_sort(s));
    *out = s;
    s = NULL;
out:
    gr_st_close(&s);
    return st;
}

static bool plain_file_name(const char *name)
{
    static const char ok[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    const size_t      n = strlen(name);

    return n > 0 && n <= LIMIT_FILE_NAME && strspn(name, ok) == n && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Open each file of the index once, in the order of their names. */
static gr_status index_open(gr_st *s, const char *dir, const char *index, json_t *map)
{
    gr_status    st = GR_OK;
    const size_t n = json_object_size(map);
    const char **name = NULL, *key;
    char         path[GR_PATH_MAX];
    size_t       i = 0;
    json_t      *v;

    GR_CHECK(n > 0 && n <= LIMIT_TENSORS, GR_ERR_INPUT, "%s: weight_map must be an object of 1 to %d tensors", index,
             LIMIT_TENSORS);
    GR_TRY(gr_alloc(&name, n, sizeof *name, "file names"));
    json_object_foreach(map, key, v)
    {
        GR_CHECK(json_is_string(v) && plain_file_name(json_string_value(v)), GR_ERR_INPUT,
                 "%s: weight_map: \"%.60s\": not the name of a file in this directory", index, key);
        name[i++] = json_string_value(v);
    }
    qsort(name, n, sizeof *name, by_bytes);
    for (i = 0; i < n; i++) {
        if (i > 0 && !strcmp(name[i - 1], name[i])) continue;
        GR_TRY(gr_path(path, "%s/%s", dir, name[i]));
        GR_TRY(file_add(s, path));
    }
    GR_TRY(names_sort(s));
    json_object_foreach(map, key, v)
    {
        const entry *e = look_up(s, key);
        GR_TRY(gr_path(path, "%s/%s", dir, json_string_value(v)));
        GR_CHECK(e && !strcmp(s->file[e->i_file].path, path), GR_ERR_INPUT, "%s: tensor \"%.200s\" is not in %s", index,
                 key, json_string_value(v));
    }
out:
    gr_free(&name);
    return st;
}

gr_status gr_st_dir_open(gr_st **out, const char *dir)
{
    gr_status st = GR_OK;
    gr_st    *s = NULL;
    json_t   *index = NULL;
    char      path[GR_PATH_MAX];

    GR_TRY(gr_path(path, "%s/model.safetensors", dir));
    if (gr_exists(path)) return gr_st_open(out, path);
    GR_TRY(gr_path(path, "%s/model.safetensors.index.json", dir));
    GR_CHECK(gr_exists(path), GR_ERR_INPUT, "%s: neither model.safetensors nor model.safetensors.index.json", dir);
    GR_TRY(gr_json_load(path, &index));
    GR_TRY(gr_alloc(&s, 1, sizeof *s, "safetensors"));
    GR_TRY(index_open(s, dir, path, json_object_get(index, "weight_map")));
    *out = s;
    s = NULL;
out:
    gr_st_close(&s);
    json_decref(index);
    return st;
}

void gr_st_close(gr_st **s)
{
    if (!*s) return;
    for (int64_t i = 0; i < (*s)->n_file; i++) {
        file *f = &(*s)->file[i];
        if (f->fd >= 0) close(f->fd);
        json_decref(f->header);
        gr_free(&f->path);
    }
    gr_free(&(*s)->file);
    gr_free(&(*s)->entry);
    gr_free(s);
}

/* ---- asking ------------------------------------------------------------------------------------ */

int64_t gr_st_count(const gr_st *s)
{
    return s->n_entry;
}

const char *gr_st_name(const gr_st *s, int64_t i)
{
    return s->entry[i].name;
}

bool gr_st_has(const gr_st *s, const char *name)
{
    return look_up(s, name) != NULL;
}

static gr_status find(const gr_st *s, const char *name, gr_st_info *info, const file **f)
{
    gr_status    st = GR_OK;
    const entry *e = look_up(s, name);

    GR_CHECK(e, GR_ERR_INPUT, "%s%s: no tensor \"%s\"", s->file[0].path, s->n_file > 1 ? " and the other files" : "",
             name);
    *f = &s->file[e->i_file];
    GR_CHECK(type_of[e->type].readable, GR_ERR_INPUT, "%s: tensor \"%s\": dtype %s, expected F32, BF16 or F16",
             (*f)->path, name, type_of[e->type].name);
    GR_CHECK(e->rank <= GR_MAX_DIM, GR_ERR_INPUT, "%s: tensor \"%s\": %d dimensions, at most %d are read", (*f)->path,
             name, e->rank, GR_MAX_DIM);
    *info = (gr_st_info){.file = (*f)->path,
                         .dtype = type_of[e->type].dtype,
                         .rank = e->rank,
                         .offset = (*f)->data + e->begin,
                         .bytes = e->end - e->begin};
    memcpy(info->dim, e->dim, sizeof e->dim);
out:
    return st;
}

gr_status gr_st_find(const gr_st *s, const char *name, gr_st_info *info)
{
    const file *f;

    return find(s, name, info, &f);
}

/* Read rows as stored, or, when `wide`, as fp32. */
static gr_status rows_read(const gr_st *s, const char *name, int64_t first, int64_t count, char *data, bool wide)
{
    gr_status   st = GR_OK;
    gr_st_info  t;
    const file *f;
    uint64_t    row, n;
    char       *raw;

    GR_TRY(find(s, name, &t, &f));
    GR_CHECK(first >= 0 && count >= 0 && first <= t.dim[0] && count <= t.dim[0] - first, GR_ERR_ARG,
             "%s: tensor \"%s\": %" PRId64 " rows from %" PRId64 " on, of %" PRId64, t.file, name, count, first,
             t.dim[0]);
    if (count == 0 || t.bytes == 0) goto out;
    row = t.bytes / (uint64_t)t.dim[0];
    n = (uint64_t)count * row;
    raw = wide && t.dtype != GR_F32 ? data + n : data; /* 16 bits: widened in place */
    GR_TRY(gr_pread_all(f->fd, raw, n, t.offset + (uint64_t)first * row, t.file));
    if (wide) gr_widen_f32(t.dtype, raw, (float *)(void *)data, (int64_t)(n / (uint64_t)gr_dtype_size(t.dtype)));
out:
    return st;
}

gr_status gr_st_read(const gr_st *s, const char *name, int64_t first, int64_t count, void *data)
{
    return rows_read(s, name, first, count, data, false);
}

gr_status gr_st_read_f32(const gr_st *s, const char *name, int64_t first, int64_t count, float *data)
{
    return rows_read(s, name, first, count, (char *)data, true);
}
