#include "store/safetensors.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIMIT_NAME = 512, LIMIT_HEADER = 64 << 20, ALIGN = 8 };

typedef struct place {
    char    *name;
    gr_dtype dtype;
    int      rank;
    int64_t  dim[GR_MAX_DIM];
    uint64_t begin, bytes;
} place;

struct gr_st_plan {
    place   *place; /* sorted by name */
    int64_t  n;
    char    *header; /* length, JSON, spaces up to a multiple of 8 */
    uint64_t n_header, n_data;
};

static const char *type_name(gr_dtype t)
{
    static const char *const name[] = {"F32", "BF16", "F16", "F64", "U8", "I32", "U32", "I64", "U64", "U16"};
    return name[t];
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const place *)a)->name, ((const place *)b)->name);
}

static int by_width(const void *a, const void *b)
{
    const int x = gr_dtype_size(((const place *)a)->dtype), y = gr_dtype_size(((const place *)b)->dtype);

    return x != y ? y - x : by_name(a, b);
}

static gr_status place_set(place *p, const gr_st_spec *spec)
{
    gr_status st = GR_OK;
    uint64_t  n = (uint64_t)gr_dtype_size(spec->dtype);

    GR_CHECK(*spec->name && strlen(spec->name) <= LIMIT_NAME && strcmp(spec->name, "__metadata__") != 0, GR_ERR_ARG,
             "safetensors: tensor name \"%.60s\"", spec->name);
    GR_CHECK(spec->rank >= 0 && spec->rank <= GR_MAX_DIM, GR_ERR_ARG, "safetensors: tensor \"%s\": rank %d", spec->name,
             spec->rank);
    for (int i = 0; i < spec->rank; i++)
        GR_CHECK(spec->dim[i] >= 0 && !__builtin_mul_overflow(n, (uint64_t)spec->dim[i], &n), GR_ERR_ARG,
                 "safetensors: tensor \"%s\": impossible shape", spec->name);
    GR_TRY(gr_strdup(&p->name, spec->name));
    p->dtype = spec->dtype;
    p->rank = spec->rank;
    memcpy(p->dim, spec->dim, sizeof p->dim);
    p->bytes = n;
out:
    return st;
}

static json_t *place_json(const place *p)
{
    json_t *shape = json_array();

    for (int i = 0; i < p->rank; i++) json_array_append_new(shape, json_integer(p->dim[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", type_name(p->dtype), "shape", shape, "data_offsets",
                     (json_int_t)p->begin, (json_int_t)(p->begin + p->bytes));
}

/* Keys in the order of the data, after the metadata that the transformers library wants to see. */
static gr_status header_make(gr_st_plan *p)
{
    gr_status st = GR_OK;
    json_t   *tree = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    char     *text = NULL;
    uint64_t  n;

    for (int64_t i = 0; i < p->n; i++)
        GR_CHECK(!json_object_set_new(tree, p->place[i].name, place_json(&p->place[i])), GR_ERR_ARG,
                 "safetensors: tensor name \"%s\" is not UTF-8", p->place[i].name);
    GR_TRY(gr_json_dump(tree, 0, &text));
    n = strlen(text);
    p->n_header = ALIGN + (n + ALIGN - 1) / ALIGN * ALIGN;
    GR_CHECK(p->n_header <= LIMIT_HEADER, GR_ERR_ARG,
             "safetensors: header of %" PRIu64 " bytes, at most %d can be read", p->n_header, LIMIT_HEADER);
    GR_TRY(gr_alloc(&p->header, p->n_header, 1, "safetensors header"));
    memset(p->header, ' ', p->n_header);
    for (int i = 0; i < 8; i++) p->header[i] = (char)((p->n_header - ALIGN) >> 8 * i);
    memcpy(p->header + ALIGN, text, n);
out:
    gr_free(&text);
    json_decref(tree);
    return st;
}

gr_status gr_st_plan_open(gr_st_plan **out, const gr_st_spec *spec, int64_t n)
{
    gr_status   st = GR_OK;
    gr_st_plan *p = NULL;

    GR_TRY(gr_alloc(&p, 1, sizeof *p, "safetensors plan"));
    GR_TRY(gr_alloc(&p->place, (uint64_t)n, sizeof *p->place, "safetensors plan"));
    for (int64_t i = 0; i < n; i++) {
        GR_TRY(place_set(&p->place[i], &spec[i]));
        p->n++;
    }
    qsort(p->place, (size_t)n, sizeof *p->place, by_width);
    for (int64_t i = 0; i < n; i++) {
        p->place[i].begin = p->n_data;
        GR_CHECK(!__builtin_add_overflow(p->n_data, p->place[i].bytes, &p->n_data) && p->n_data < INT64_MAX / 2,
                 GR_ERR_ARG, "safetensors: the tensors together are too large");
    }
    GR_TRY(header_make(p));
    qsort(p->place, (size_t)n, sizeof *p->place, by_name);
    for (int64_t i = 1; i < n; i++)
        GR_CHECK(strcmp(p->place[i - 1].name, p->place[i].name) != 0, GR_ERR_ARG, "safetensors: tensor \"%s\" twice",
                 p->place[i].name);
    *out = p;
    p = NULL;
out:
    gr_st_plan_close(&p);
    return st;
}

void gr_st_plan_close(gr_st_plan **p)
{
    if (!*p) return;
    for (int64_t i = 0; i < (*p)->n; i++) gr_free(&(*p)->place[i].name);
    gr_free(&(*p)->place);
    gr_free(&(*p)->header);
    gr_free(p);
}

uint64_t gr_st_plan_bytes(const gr_st_plan *p)
{
    return p->n_header + p->n_data;
}

static gr_status create(const gr_st_plan *p, const char *path, char *tmp)
{
    gr_status st = GR_OK;
    int       fd = -1, refused;

    GR_TRY(gr_temporary(tmp, path));
    unlink(tmp); /* of a dead process that had our pid */
    fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    GR_CHECK(fd >= 0, GR_ERR_IO, "%s: %s", tmp, strerror(errno));
    refused = posix_fallocate(fd, 0, (off_t)gr_st_plan_bytes(p));
    GR_CHECK(!refused, GR_ERR_IO, "%s: reserving %" PRIu64 " bytes: %s", tmp, gr_st_plan_bytes(p), strerror(refused));
    GR_TRY(gr_pwrite_all(fd, p->header, p->n_header, 0, tmp));
    refused = close(fd);
    fd = -1;
    GR_CHECK(!refused, GR_ERR_IO, "%s: close: %s", tmp, strerror(errno));
out:
    if (fd >= 0) close(fd);
    return st;
}

gr_status gr_st_start(const gr_comm *c, const gr_st_plan *p, const char *path, char *tmp)
{
    gr_status st = GR_OK;

    tmp[0] = 0;
    if (gr_comm_rank(c) == 0) st = create(p, path, tmp);
    if (st == GR_OK) st = gr_fault(c, "st_start");
    GR_TRY(gr_agree(c, st));
    gr_bcast(c, tmp, GR_PATH_MAX, 0);
out:
    if (st != GR_OK && *tmp) gr_st_abandon(c, tmp);
    return st;
}

gr_status gr_st_put(const gr_st_plan *p, const char *tmp, const char *name, uint64_t at, const void *data, uint64_t n)
{
    gr_status    st = GR_OK;
    const place  key = {.name = (char *)(uintptr_t)name};
    const place *t = p->n ? bsearch(&key, p->place, (size_t)p->n, sizeof key, by_name) : NULL;
    uint64_t     end;
    int          fd = -1, closed;

    GR_CHECK(t, GR_ERR_ARG, "%s: tensor \"%s\" is not in the plan", tmp, name);
    GR_CHECK(!__builtin_add_overflow(at, n, &end) && end <= t->bytes, GR_ERR_ARG,
             "%s: tensor \"%s\": %" PRIu64 " bytes from %" PRIu64 " on, of %" PRIu64, tmp, name, n, at, t->bytes);
    if (n == 0) goto out;
    fd = open(tmp, O_WRONLY | O_CLOEXEC);
    GR_CHECK(fd >= 0, GR_ERR_IO, "%s: %s", tmp, strerror(errno));
    GR_TRY(gr_pwrite_all(fd, data, n, p->n_header + t->begin + at, tmp));
    closed = close(fd);
    fd = -1;
    GR_CHECK(!closed, GR_ERR_IO, "%s: close: %s", tmp, strerror(errno)); /* network file systems report here */
out:
    if (fd >= 0) close(fd);
    return st;
}

static gr_status publish(const gr_st_plan *p, const char *tmp, const char *path)
{
    gr_status   st = GR_OK;
    struct stat sb;

    GR_CHECK(!stat(tmp, &sb), GR_ERR_IO, "%s: stat: %s", tmp, strerror(errno));
    GR_CHECK((uint64_t)sb.st_size == gr_st_plan_bytes(p), GR_ERR_IO, "%s: %lld bytes, planned were %" PRIu64, tmp,
             (long long)sb.st_size, gr_st_plan_bytes(p));
    GR_TRY(gr_publish(tmp, path));
out:
    return st;
}

gr_status gr_st_commit(const gr_comm *c, const gr_st_plan *p, const char *tmp, const char *path)
{
    gr_status st = GR_OK;

    st = gr_fault(c, "st_commit");
    if (st == GR_OK) st = gr_fsync_path(tmp); /* each host what it holds */
    GR_TRY(gr_agree(c, st));
    if (gr_comm_rank(c) == 0) st = publish(p, tmp, path);
    st = gr_agree(c, st);
out:
    if (st != GR_OK) gr_st_abandon(c, tmp);
    return st;
}

void gr_st_abandon(const gr_comm *c, const char *tmp)
{
    if (gr_comm_rank(c) == 0) unlink(tmp);
}
