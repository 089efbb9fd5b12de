#include "store/h5.h"
#include "store/h5_room.h"
#include "store/widen.h"
#include "util/mem.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ------------------------------------------------------------------------------ */

/* One link of the root group. Soft and external links lead out of what the checksum covers. */
static herr_t see_link(hid_t group, const char *name, const H5L_info_t *info, void *file)
{
    gr_status st = GR_OK;
    gr_h5    *f = file;

    (void)group;
    GR_CHECK(info->type == H5L_TYPE_HARD, GR_ERR_INPUT, "%s: \"%s\" is a soft or external link, only datasets are read",
             f->path, name);
    if (*name == '@') goto out;
    GR_TRY(gr_h5_note_name(f, name));
out:
    f->failed = st;
    return st == GR_OK ? 0 : -1;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static gr_status open_verified(gr_h5 *f)
{
    gr_status st = GR_OK;
    hid_t     fapl = -1;
    herr_t    seen;

    gr_h5_enter();
    GR_TRY(gr_h5_start());
    GR_TRY(gr_h5_access(&fapl, f->path));
    f->file = H5Fopen(f->path, H5F_ACC_RDONLY, fapl);
    GR_H5_CHECK(f->file >= 0, GR_ERR_INPUT, f->path, "open");
    seen = H5Literate(f->file, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, see_link, f);
    GR_TRY(f->failed); /* logged by see_link */
    GR_H5_CHECK(seen >= 0, GR_ERR_INPUT, f->path, "listing datasets");
    if (f->n_name) qsort(f->name, (size_t)f->n_name, sizeof *f->name, by_bytes);
out:
    if (fapl >= 0) H5Pclose(fapl);
    gr_h5_leave();
    return st;
}

gr_status gr_h5_open_all(const gr_comm *c, gr_h5 **out, const char *path, const char *kind)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;

    st = gr_alloc(&f, 1, sizeof *f, "HDF5 file");
    if (st == GR_OK) {
        f->file = -1;
        st = gr_path(f->path, "%s", path);
    }
    GR_TRY(gr_agree(c, st));
    GR_TRY(gr_seal_verify(c, path, kind, &f->seal));
    memcpy(f->kind, f->seal.kind, sizeof f->kind);
    GR_TRY(gr_agree(c, open_verified(f)));
    *out = f;
    f = NULL;
out:
    gr_h5_free(&f);
    return st;
}

gr_status gr_h5_open(gr_h5 **f, const char *path, const char *kind)
{
    return gr_h5_open_all(NULL, f, path, kind);
}

gr_status gr_h5_open_known(gr_h5 **out, const char *path, const char *kind, const char *seal)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;

    GR_TRY(gr_alloc(&f, 1, sizeof *f, "HDF5 file"));
    f->file = -1;
    GR_TRY(gr_path(f->path, "%s", path));
    GR_TRY(gr_seal_read(path, kind, &f->seal));
    GR_CHECK(!strcmp(f->seal.id, seal), GR_ERR_INPUT, "%s: seal %s, expected %s: not the file that was verified", path,
             f->seal.id, seal);
    memcpy(f->kind, f->seal.kind, sizeof f->kind);
    GR_TRY(open_verified(f));
    *out = f;
    f = NULL;
out:
    gr_h5_free(&f);
    return st;
}

const char *gr_h5_seal_of(const gr_h5 *f)
{
    return f->seal.id;
}

const char *gr_h5_content_of(const gr_h5 *f)
{
    return *f->seal.content ? f->seal.content : f->seal.id;
}

gr_status gr_h5_names(gr_h5 *f, const char *const **names, int64_t *n)
{
    gr_status st = GR_OK;

    GR_CHECK(!f->writing, GR_ERR_ARG, "%s: open for writing", f->path);
    *names = (const char *const *)f->name;
    *n = f->n_name;
out:
    return st;
}

/* ---- datasets ----------------------------------------------------------------------------- */

static bool listed(const gr_h5 *f, const char *name)
{
    return f->n_name && bsearch(&name, f->name, (size_t)f->n_name, sizeof *f->name, by_bytes);
}

bool gr_h5_has(gr_h5 *f, const char *name)
{
    return listed(f, name);
}

typedef struct dataset {
    hid_t    id;
    gr_dtype dtype;
    int      rank;
    int64_t  dim[GR_MAX_DIM];
} dataset;

/* What is the type, exactly? Class, size, byte order, sign and float layout all count. */
static gr_status dtype_of(const gr_h5 *f, const char *name, hid_t type, gr_dtype *dtype)
{
    for (int t = 0; t <= GR_U16; t++) {
        if (H5Tequal(type, gr_h5_type((gr_dtype)t)) > 0) {
            *dtype = (gr_dtype)t;
            return GR_OK;
        }
    }
    return gr_fail(__FILE__, __LINE__, GR_ERR_INPUT, "%s: dataset \"%s\": its element type is none of ours", f->path,
                   name);
}

/* Our own file has only contiguous bytes inside itself. */
static gr_status storage_of(const gr_h5 *f, const char *name, hid_t id, uint64_t bytes)
{
    gr_status   st = GR_OK;
    const hid_t made_by = H5Dget_create_plist(id);
    haddr_t     at;

    GR_H5_CHECK(made_by >= 0, GR_ERR_INPUT, f->path, "dataset \"%s\": properties", name);
    GR_CHECK(H5Pget_layout(made_by) == H5D_CONTIGUOUS, GR_ERR_INPUT,
             "%s: dataset \"%s\": not contiguous (chunked, compact or virtual)", f->path, name);
    GR_CHECK(H5Pget_external_count(made_by) == 0, GR_ERR_INPUT, "%s: dataset \"%s\": lies in another file", f->path,
             name);
    GR_CHECK(H5Pget_nfilters(made_by) == 0, GR_ERR_INPUT, "%s: dataset \"%s\": filtered", f->path, name);
    GR_CHECK(H5Dget_storage_size(id) == bytes, GR_ERR_INPUT,
             "%s: dataset \"%s\": %" PRIu64 " bytes stored, its shape says %" PRIu64, f->path, name,
             (uint64_t)H5Dget_storage_size(id), bytes);
    if (bytes == 0) goto out;
    at = H5Dget_offset(id);
    GR_CHECK(at != HADDR_UNDEF && at >= GR_SEAL_BYTES && bytes <= f->seal.bytes &&
                 at - GR_SEAL_BYTES <= f->seal.bytes - bytes,
             GR_ERR_INPUT, "%s: dataset \"%s\": its %" PRIu64 " bytes are not in the file", f->path, name, bytes);
out:
    if (made_by >= 0) H5Pclose(made_by);
    return st;
}

static gr_status dataset_open(gr_h5 *f, const char *name, dataset *out)
{
    gr_status st = GR_OK;
    hid_t     type = -1, space = -1;
    hsize_t   size[GR_MAX_DIM];
    uint64_t  bytes;
    dataset   d = {.id = -1};

    GR_CHECK(!f->writing, GR_ERR_ARG, "%s: open for writing, \"%s\" cannot be read", f->path, name);
    GR_CHECK(*name == '@' || listed(f, name), GR_ERR_INPUT, "%s: no dataset \"%s\"", f->path, name);
    d.id = H5Dopen2(f->file, name, H5P_DEFAULT);
    GR_H5_CHECK(d.id >= 0, GR_ERR_INPUT, f->path, "dataset \"%s\": open", name);
    type = H5Dget_type(d.id);
    space = H5Dget_space(d.id);
    GR_H5_CHECK(type >= 0 && space >= 0, GR_ERR_INPUT, f->path, "dataset \"%s\": type and shape", name);
    GR_TRY(dtype_of(f, name, type, &d.dtype));
    d.rank = H5Sget_simple_extent_type(space) == H5S_NULL ? -1 : H5Sget_simple_extent_ndims(space);
    GR_CHECK(d.rank >= 0, GR_ERR_INPUT, "%s: dataset \"%s\": has no shape", f->path, name);
    GR_CHECK(d.rank <= GR_MAX_DIM, GR_ERR_INPUT, "%s: dataset \"%s\": %d dimensions, at most %d are read", f->path,
             name, d.rank, GR_MAX_DIM);
    H5Sget_simple_extent_dims(space, size, NULL);
    bytes = (uint64_t)gr_dtype_size(d.dtype);
    for (int i = 0; i < GR_MAX_DIM; i++) d.dim[i] = 1;
    for (int i = 0; i < d.rank; i++) {
        GR_CHECK(!__builtin_mul_overflow(bytes, (uint64_t)size[i], &bytes) && size[i] <= INT64_MAX, GR_ERR_INPUT,
                 "%s: dataset \"%s\": impossible shape", f->path, name);
        d.dim[i] = (int64_t)size[i];
    }
    GR_TRY(storage_of(f, name, d.id, bytes));
    *out = d;
    d.id = -1;
out:
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (d.id >= 0) H5Dclose(d.id);
    return st;
}

gr_status gr_h5_info(gr_h5 *f, const char *name, gr_dtype *dtype, int *rank, int64_t dim[GR_MAX_DIM])
{
    gr_status st = GR_OK;
    dataset   d;

    gr_h5_enter();
    GR_TRY(dataset_open(f, name, &d));
    *dtype = d.dtype;
    *rank = d.rank;
    memcpy(dim, d.dim, sizeof d.dim);
    H5Dclose(d.id);
out:
    gr_h5_leave();
    return st;
}

gr_status gr_h5_offset(gr_h5 *f, const char *name, uint64_t *offset)
{
    gr_status st = GR_OK;
    dataset   d;
    haddr_t   at;

    gr_h5_enter();
    GR_TRY(dataset_open(f, name, &d));
    at = H5Dget_offset(d.id);
    H5Dclose(d.id);
    GR_CHECK(at != HADDR_UNDEF, GR_ERR_INPUT, "%s: dataset \"%s\" lies nowhere", f->path, name);
    *offset = at;
out:
    gr_h5_leave();
    return st;
}

/* dim[0] of a scalar is 1. */
static gr_status rows_check(const gr_h5 *f, const dataset *d, const char *name, int64_t first, int64_t count)
{
    gr_status st = GR_OK;

    GR_CHECK(first >= 0 && count >= 0 && first <= d->dim[0] && count <= d->dim[0] - first, GR_ERR_ARG,
             "%s: dataset \"%s\": %" PRId64 " rows from %" PRId64 " on, of %" PRId64, f->path, name, count, first,
             d->dim[0]);
out:
    return st;
}

gr_status gr_h5_read(gr_h5 *f, const char *name, gr_dtype dtype, int64_t first, int64_t count, void *data)
{
    gr_status st = GR_OK;
    dataset   d = {.id = -1};

    gr_h5_enter();
    GR_TRY(dataset_open(f, name, &d));
    GR_CHECK(d.dtype == dtype, GR_ERR_INPUT, "%s: dataset \"%s\": %s, expected %s", f->path, name,
             gr_dtype_name(d.dtype), gr_dtype_name(dtype));
    GR_TRY(rows_check(f, &d, name, first, count));
    GR_TRY(gr_h5_move(f, d.id, name, d.dtype, d.rank, d.dim, first, count, NULL, data));
out:
    if (d.id >= 0) H5Dclose(d.id);
    gr_h5_leave();
    return st;
}

gr_status gr_h5_read_f32(gr_h5 *f, const char *name, int64_t first, int64_t count, float *data)
{
    gr_status st = GR_OK;
    dataset   d = {.id = -1};
    int64_t   n;
    char     *raw;

    gr_h5_enter();
    GR_TRY(dataset_open(f, name, &d));
    GR_CHECK(d.dtype == GR_F32 || d.dtype == GR_BF16 || d.dtype == GR_F16, GR_ERR_INPUT,
             "%s: dataset \"%s\": %s, expected f32, bf16 or f16", f->path, name, gr_dtype_name(d.dtype));
    GR_TRY(rows_check(f, &d, name, first, count));
    n = count * d.dim[1] * d.dim[2] * d.dim[3];
    raw = (char *)data + n * (4 - gr_dtype_size(d.dtype)); /* 16 bits: into the second half, widened in place */
    GR_TRY(gr_h5_move(f, d.id, name, d.dtype, d.rank, d.dim, first, count, NULL, raw));
    gr_widen_f32(d.dtype, raw, data, n);
out:
    if (d.id >= 0) H5Dclose(d.id);
    gr_h5_leave();
    return st;
}

/* ---- attributes --------------------------------------------------------------------------- */

/* Open an attribute of the file or of a dataset. The owner stays open for as long as the attribute needs it. */
static gr_status attribute_open(gr_h5 *f, const char *dataset_name, const char *name, hid_t *owner, hid_t *attribute)
{
    gr_status st = GR_OK;
    dataset   d = {.id = -1};
    hid_t     space = -1;

    *owner = *attribute = -1;
    if (dataset_name) {
        GR_TRY(dataset_open(f, dataset_name, &d));
        *owner = d.id;
    }
    GR_CHECK(H5Aexists(dataset_name ? d.id : f->file, name) > 0, GR_ERR_INPUT, "%s: no attribute \"%s\"%s%s", f->path,
             name, dataset_name ? " of " : "", dataset_name ? dataset_name : "");
    *attribute = H5Aopen(dataset_name ? d.id : f->file, name, H5P_DEFAULT);
    GR_H5_CHECK(*attribute >= 0, GR_ERR_INPUT, f->path, "attribute \"%s\": open", name);
    space = H5Aget_space(*attribute);
    GR_CHECK(space >= 0 && H5Sget_simple_extent_type(space) == H5S_SCALAR, GR_ERR_INPUT,
             "%s: attribute \"%s\": not a single value", f->path, name);
out:
    if (space >= 0) H5Sclose(space);
    return st;
}

static gr_status get_attribute(gr_h5 *f, const char *dataset_name, const char *name, gr_dtype dtype, void *v)
{
    gr_status st = GR_OK;
    hid_t     owner = -1, a = -1, type = -1;

    gr_h5_enter();
    GR_TRY(attribute_open(f, dataset_name, name, &owner, &a));
    type = H5Aget_type(a);
    GR_CHECK(H5Tequal(type, gr_h5_type(dtype)) > 0, GR_ERR_INPUT, "%s: attribute \"%s\": not of type %s", f->path, name,
             gr_dtype_name(dtype));
    GR_H5_CHECK(H5Aread(a, type, v) >= 0, GR_ERR_INPUT, f->path, "attribute \"%s\": read", name);
out:
    if (type >= 0) H5Tclose(type);
    if (a >= 0) H5Aclose(a);
    if (owner >= 0) H5Dclose(owner);
    gr_h5_leave();
    return st;
}

gr_status gr_h5_get_int(gr_h5 *f, const char *dataset_name, const char *name, int64_t *v)
{
    return get_attribute(f, dataset_name, name, GR_I64, v);
}

gr_status gr_h5_get_num(gr_h5 *f, const char *dataset_name, const char *name, double *v)
{
    return get_attribute(f, dataset_name, name, GR_F64, v);
}

static bool long_string(gr_h5 *f, const char *dataset_name, const char *name, char long_name[GR_PATH_MAX])
{
    gr_h5_long_name(long_name, dataset_name, name);
    return !strchr(long_name, '/') && H5Lexists(f->file, long_name, H5P_DEFAULT) > 0;
}

bool gr_h5_has_attr(gr_h5 *f, const char *dataset_name, const char *name)
{
    char long_name[GR_PATH_MAX];
    bool has;

    gr_h5_enter();
    has = long_string(f, dataset_name, name, long_name);
    if (!has && !dataset_name)
        has = H5Aexists(f->file, name) > 0;
    else if (!has)
        has = listed(f, dataset_name) && H5Aexists_by_name(f->file, dataset_name, name, H5P_DEFAULT) > 0;
    gr_h5_leave();
    return has;
}

static gr_status get_long(gr_h5 *f, const char *long_name, char **v)
{
    gr_status st = GR_OK;
    dataset   d = {.id = -1};
    char     *text = NULL;

    GR_TRY(dataset_open(f, long_name, &d));
    GR_CHECK(d.dtype == GR_U8 && d.rank == 1, GR_ERR_INPUT, "%s: \"%s\": not a string", f->path, long_name);
    GR_TRY(gr_alloc(&text, (uint64_t)d.dim[0] + 1, 1, long_name));
    GR_TRY(gr_h5_move(f, d.id, long_name, d.dtype, d.rank, d.dim, 0, d.dim[0], NULL, text));
    *v = text;
    text = NULL;
out:
    gr_free(&text);
    if (d.id >= 0) H5Dclose(d.id);
    return st;
}

gr_status gr_h5_get_str(gr_h5 *f, const char *dataset_name, const char *name, char **v)
{
    gr_status st = GR_OK;
    char      long_name[GR_PATH_MAX], *text = NULL;
    hid_t     owner = -1, a = -1, type = -1;

    gr_h5_enter();
    if (long_string(f, dataset_name, name, long_name)) {
        st = get_long(f, long_name, v);
        goto out;
    }
    GR_TRY(attribute_open(f, dataset_name, name, &owner, &a));
    type = H5Aget_type(a);
    GR_CHECK(H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0, GR_ERR_INPUT,
             "%s: attribute \"%s\": not a string", f->path, name);
    GR_CHECK(H5Tget_size(type) <= GR_H5_LONG + 1, GR_ERR_INPUT, "%s: attribute \"%s\": %zu bytes", f->path, name,
             H5Tget_size(type));
    GR_TRY(gr_alloc(&text, (uint64_t)H5Tget_size(type) + 1, 1, "attribute"));
    GR_H5_CHECK(H5Aread(a, type, text) >= 0, GR_ERR_INPUT, f->path, "attribute \"%s\": read", name);
    *v = text;
    text = NULL;
out:
    gr_free(&text);
    if (type >= 0) H5Tclose(type);
    if (a >= 0) H5Aclose(a);
    if (owner >= 0) H5Dclose(owner);
    gr_h5_leave();
    return st;
}
