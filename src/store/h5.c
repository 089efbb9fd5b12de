#include "store/h5.h"
#include "store/h5_room.h"
#include "util/beat.h"
#include "util/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { N_DTYPE = GR_U16 + 1 };

/* ---- the library ------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void gr_h5_enter(void)
{
    pthread_mutex_lock(&lock);
}

void gr_h5_leave(void)
{
    pthread_mutex_unlock(&lock);
}

static hid_t type_of[N_DTYPE]; /* filled once by gr_h5_start */

/* A little-endian IEEE-like float of 16 bits: sign, `exponent` bits, the rest mantissa. */
static hid_t half_type(size_t exponent, size_t bias)
{
    const hid_t t = H5Tcopy(H5T_IEEE_F32LE);

    if (t < 0 || H5Tset_fields(t, 15, 15 - exponent, exponent, 0, 15 - exponent) < 0 || H5Tset_size(t, 2) < 0 ||
        H5Tset_ebias(t, bias) < 0)
        return -1;
    return t;
}

gr_status gr_h5_start(void)
{
    static bool started;
    gr_status   st = GR_OK;

    if (started) return GR_OK;
    H5dont_atexit(); /* its exit handler crashes after a failed write */
    GR_CHECK(H5open() >= 0, GR_ERR_IO, "the HDF5 library does not start");
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    type_of[GR_F32] = H5T_IEEE_F32LE;
    type_of[GR_F64] = H5T_IEEE_F64LE;
    type_of[GR_U8] = H5T_STD_U8LE;
    type_of[GR_U16] = H5T_STD_U16LE;
    type_of[GR_I32] = H5T_STD_I32LE;
    type_of[GR_U32] = H5T_STD_U32LE;
    type_of[GR_I64] = H5T_STD_I64LE;
    type_of[GR_U64] = H5T_STD_U64LE;
    type_of[GR_BF16] = half_type(8, 127);
    type_of[GR_F16] = half_type(5, 15);
    for (int t = 0; t < N_DTYPE; t++)
        GR_CHECK(type_of[t] >= 0, GR_ERR_IO, "HDF5 has no type for %s", gr_dtype_name((gr_dtype)t));
    started = true;
out:
    return st;
}

hid_t gr_h5_type(gr_dtype t)
{
    return type_of[t];
}

enum { CAUSE = 256 };

/* The system's own words where HDF5 quotes them ("..., error message = 'No space left on device', ..."). */
static herr_t innermost(unsigned n, const H5E_error2_t *e, void *text)
{
    static const char lead[] = "error message = '";
    const char       *from = strstr(e->desc, lead);

    if (n > 0) return 0;
    from = from ? from + sizeof lead - 1 : e->desc;
    snprintf(text, CAUSE, "%.*s", (int)strcspn(from, from == e->desc ? "\n" : "'"), from);
    return 0;
}

gr_status gr_h5_refused(const char *src, int line, gr_status code, const char *path, const char *fmt, ...)
{
    char    what[512], cause[CAUSE] = "no reason given";
    va_list ap;

    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, cause);
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return gr_fail(src, line, code, "%s: %s: HDF5: %s", path, what, cause);
}

gr_status gr_h5_access(hid_t *fapl, const char *path)
{
    gr_status st = GR_OK;

    *fapl = H5Pcreate(H5P_FILE_ACCESS);
    /* No locks: we open finished files only, and some file systems lack them. No sieve buffer: a small write must
     * fail when it is made, not when something else is closed. */
    GR_H5_CHECK(*fapl >= 0 && H5Pset_fclose_degree(*fapl, H5F_CLOSE_STRONG) >= 0 &&
                    H5Pset_file_locking(*fapl, 0, 1) >= 0 && H5Pset_sieve_buf_size(*fapl, 0) >= 0 &&
                    H5Pset_libver_bounds(*fapl, H5F_LIBVER_EARLIEST, H5F_LIBVER_V110) >= 0,
                GR_ERR_IO, path, "access properties");
out:
    return st;
}

void gr_h5_long_name(char out[GR_PATH_MAX], const char *dataset, const char *name)
{
    snprintf(out, GR_PATH_MAX, dataset ? "@%s@%s" : "@%s%s", dataset ? dataset : "", name);
}

gr_status gr_h5_note_name(gr_h5 *f, const char *name)
{
    gr_status st = GR_OK;

    if (f->n_name == f->room_name) {
        f->room_name = f->room_name ? 2 * f->room_name : 64;
        GR_TRY(gr_realloc(&f->name, (uint64_t)f->room_name, sizeof *f->name, "dataset names"));
    }
    GR_TRY(gr_strdup(&f->name[f->n_name], name));
    f->n_name++;
out:
    return st;
}

void gr_h5_free(gr_h5 **f)
{
    if (!*f) return;
    gr_h5_enter();
    if ((*f)->file >= 0) H5Fclose((*f)->file);
    gr_h5_leave();
    gr_names_free(&(*f)->name, (*f)->n_name);
    gr_free(&(*f)->slot);
    gr_free(f);
}

/* ---- datasets ---------------------------------------------------------------------------- */

/* Bytes of an array; false when the shape is not one of ours. */
static bool bytes_of(gr_dtype dtype, int rank, const int64_t *dim, uint64_t *bytes)
{
    uint64_t n = (uint64_t)gr_dtype_size(dtype);

    if (rank < 0 || rank > GR_MAX_DIM) return false;
    for (int i = 0; i < rank; i++)
        if (dim[i] < 0 || __builtin_mul_overflow(n, (uint64_t)dim[i], &n)) return false;
    *bytes = n;
    return n <= INT64_MAX;
}

gr_status gr_h5_move(gr_h5 *f, hid_t dataset, const char *name, gr_dtype dtype, int rank, const int64_t *dim,
                     int64_t first, int64_t count, const void *in, void *to)
{
    gr_status   st = GR_OK;
    const hid_t type = gr_h5_type(dtype);
    const char *path = f->writing ? f->tmp : f->path, *before = gr_beat(in ? "HDF5 writing" : "HDF5 reading");
    hid_t       in_file = -1, in_memory = -1;
    hsize_t     from[GR_MAX_DIM] = {0}, size[GR_MAX_DIM] = {1};
    int64_t     row = gr_dtype_size(dtype), piece;
    herr_t      ok;

    for (int i = 1; i < rank; i++) {
        row *= dim[i];
        size[i] = (hsize_t)dim[i];
    }
    if (count == 0 || row == 0) goto out;
    piece = row < GR_H5_PIECE ? GR_H5_PIECE / row : 1;
    for (int64_t i = 0; i < count; i += piece) {
        const int64_t k = count - i < piece ? count - i : piece;
        from[0] = (hsize_t)(first + i);
        size[0] = (hsize_t)k;
        in_file = H5Dget_space(dataset);
        in_memory = rank ? H5Screate_simple(rank, size, NULL) : H5Screate(H5S_SCALAR);
        ok = in_file < 0 || in_memory < 0 ? -1 : 0;
        if (ok >= 0 && rank) ok = H5Sselect_hyperslab(in_file, H5S_SELECT_SET, from, NULL, size, NULL);
        if (ok >= 0 && in)
            ok = H5Dwrite(dataset, type, in_memory, in_file, H5P_DEFAULT, (const char *)in + i * row);
        else if (ok >= 0)
            ok = H5Dread(dataset, type, in_memory, in_file, H5P_DEFAULT, (char *)to + i * row);
        GR_H5_CHECK(ok >= 0, GR_ERR_IO, path, "dataset \"%s\": %s", name, in ? "write" : "read");
        H5Sclose(in_memory);
        H5Sclose(in_file);
        in_memory = in_file = -1;
        gr_beat_again();
    }
out:
    gr_beat(before);
    if (in_memory >= 0) H5Sclose(in_memory);
    if (in_file >= 0) H5Sclose(in_file);
    return st;
}

/* Create a contiguous dataset, space allocated, nothing filled; *dataset is open on success. */
static gr_status dataset_create(gr_h5 *f, const char *name, gr_dtype dtype, int rank, const int64_t *dim,
                                hid_t *dataset)
{
    gr_status st = GR_OK;
    hid_t     space = -1, made_by = -1, d = -1;
    hsize_t   size[GR_MAX_DIM];
    uint64_t  bytes;

    GR_CHECK(*name && !strchr(name, '/') && strcmp(name, ".") != 0, GR_ERR_ARG, "%s: dataset name \"%s\"", f->path,
             name);
    GR_CHECK(bytes_of(dtype, rank, dim, &bytes), GR_ERR_ARG, "%s: dataset \"%s\": impossible shape", f->path, name);
    for (int i = 0; i < rank; i++) size[i] = (hsize_t)dim[i];
    space = rank ? H5Screate_simple(rank, size, NULL) : H5Screate(H5S_SCALAR);
    made_by = H5Pcreate(H5P_DATASET_CREATE);
    GR_H5_CHECK(space >= 0 && made_by >= 0 && H5Pset_layout(made_by, H5D_CONTIGUOUS) >= 0 &&
                    H5Pset_alloc_time(made_by, H5D_ALLOC_TIME_EARLY) >= 0 &&
                    H5Pset_fill_time(made_by, H5D_FILL_TIME_NEVER) >= 0 && H5Pset_obj_track_times(made_by, 0) >= 0,
                GR_ERR_IO, f->tmp, "dataset \"%s\": properties", name);
    d = H5Dcreate2(f->file, name, gr_h5_type(dtype), space, H5P_DEFAULT, made_by, H5P_DEFAULT);
    GR_H5_CHECK(d >= 0, GR_ERR_IO, f->tmp, "dataset \"%s\": create", name);
    *dataset = d;
out:
    if (made_by >= 0) H5Pclose(made_by);
    if (space >= 0) H5Sclose(space);
    return st;
}

static gr_status dataset_write(gr_h5 *f, const char *name, gr_dtype dtype, int rank, const int64_t *dim,
                               const void *data)
{
    gr_status st = GR_OK;
    hid_t     d = -1;
    herr_t    closed;

    GR_TRY(dataset_create(f, name, dtype, rank, dim, &d));
    GR_TRY(gr_h5_move(f, d, name, dtype, rank, dim, 0, rank ? dim[0] : 1, data, NULL));
    closed = H5Dclose(d);
    d = -1;
    GR_H5_CHECK(closed >= 0, GR_ERR_IO, f->tmp, "dataset \"%s\": close", name);
out:
    if (d >= 0) H5Dclose(d);
    return st;
}

/* ---- writing by one process --------------------------------------------------------------- */

/* HDF5 reports a full disk once and then pretends success: remember the first error. */
static gr_status remember(gr_h5 *f, gr_status st)
{
    if (f->failed == GR_OK) f->failed = st;
    return st;
}

static gr_status may_write(const gr_h5 *f, const char *name)
{
    gr_status st = f->failed; /* logged when it happened */

    if (st == GR_OK && !f->writing) GR_FAIL(GR_ERR_ARG, "%s: open for reading, not for writing", f->path);
    GR_CHECK(*name != '@', GR_ERR_ARG, "%s: \"%s\": names that start with @ are kept for long strings", f->path, name);
out:
    return st;
}

static gr_status create(gr_h5 **out, const char *path, const char *kind, bool paged)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    hid_t     fapl = -1, fcpl = -1;

    gr_h5_enter();
    GR_TRY(gr_h5_start());
    GR_TRY(gr_alloc(&f, 1, sizeof *f, "HDF5 file"));
    f->file = -1;
    f->writing = true;
    GR_TRY(gr_path(f->path, "%s", path));
    GR_TRY(gr_temporary(f->tmp, path));
    GR_CHECK(strlen(kind) <= GR_KIND_MAX, GR_ERR_ARG, "%s: kind \"%s\" is too long", path, kind);
    snprintf(f->kind, sizeof f->kind, "%s", kind);
    GR_TRY(gr_h5_access(&fapl, f->tmp));
    fcpl = H5Pcreate(H5P_FILE_CREATE);
    GR_H5_CHECK(fcpl >= 0 && H5Pset_userblock(fcpl, paged ? GR_H5_PAGE : GR_SEAL_BYTES) >= 0 &&
                    H5Pset_obj_track_times(fcpl, 0) >= 0 &&
                    (!paged || H5Pset_alignment(fapl, GR_H5_PAGED, GR_H5_PAGE) >= 0),
                GR_ERR_IO, f->tmp, "create properties");
    unlink(f->tmp); /* of a dead process that had our pid */
    f->file = H5Fcreate(f->tmp, H5F_ACC_EXCL, fcpl, fapl);
    GR_H5_CHECK(f->file >= 0, GR_ERR_IO, f->tmp, "create");
    *out = f;
    f = NULL;
out:
    if (fcpl >= 0) H5Pclose(fcpl);
    if (fapl >= 0) H5Pclose(fapl);
    gr_h5_free(&f);
    gr_h5_leave();
    return st;
}

gr_status gr_h5_create(gr_h5 **f, const char *path, const char *kind)
{
    return create(f, path, kind, false);
}

gr_status gr_h5_create_paged(gr_h5 **f, const char *path, const char *kind)
{
    return create(f, path, kind, true);
}

gr_status gr_h5_write(gr_h5 *f, const char *name, gr_dtype dtype, int rank, const int64_t *dim, const void *data)
{
    gr_status st = GR_OK;

    gr_h5_enter();
    GR_TRY(may_write(f, name));
    GR_TRY(dataset_write(f, name, dtype, rank, dim, data));
out:
    st = remember(f, st);
    gr_h5_leave();
    return st;
}

gr_status gr_h5_reserve(gr_h5 *f, const char *name, gr_dtype dtype, int rank, const int64_t *dim)
{
    gr_status  st = GR_OK;
    gr_h5_slot slot = {0};
    hid_t      d = -1;

    gr_h5_enter();
    GR_TRY(may_write(f, name));
    GR_TRY(dataset_create(f, name, dtype, rank, dim, &d));
    bytes_of(dtype, rank, dim, &slot.bytes);
    if (slot.bytes > 0) {
        slot.offset = H5Dget_offset(d); /* counts from the start of the file, user block included */
        GR_H5_CHECK(slot.offset != HADDR_UNDEF, GR_ERR_IO, f->tmp, "dataset \"%s\": offset", name);
    }
    if (f->n_slot == f->room_slot) {
        f->room_slot = f->room_slot ? 2 * f->room_slot : 64;
        GR_TRY(gr_realloc(&f->slot, (uint64_t)f->room_slot, sizeof *f->slot, "reserved datasets"));
    }
    GR_TRY(gr_h5_note_name(f, name));
    f->slot[f->n_slot++] = slot;
out:
    if (d >= 0 && H5Dclose(d) < 0 && st == GR_OK)
        st = gr_h5_refused(__FILE__, __LINE__, GR_ERR_IO, f->tmp, "dataset \"%s\": close", name);
    st = remember(f, st);
    gr_h5_leave();
    return st;
}

static gr_status set_attribute(gr_h5 *f, const char *dataset, const char *name, hid_t type, const void *v)
{
    gr_status   st = GR_OK;
    const char *owner = dataset ? dataset : "the file";
    hid_t       space = -1, d = -1, a = -1;

    if (dataset) {
        d = H5Dopen2(f->file, dataset, H5P_DEFAULT);
        GR_H5_CHECK(d >= 0, GR_ERR_ARG, f->tmp, "attribute \"%s\" of \"%s\": no such dataset", name, dataset);
    }
    space = H5Screate(H5S_SCALAR);
    a = H5Acreate2(dataset ? d : f->file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    GR_H5_CHECK(a >= 0 && H5Awrite(a, type, v) >= 0, GR_ERR_IO, f->tmp, "attribute \"%s\" of %s: write", name, owner);
out:
    if (a >= 0) H5Aclose(a);
    if (space >= 0) H5Sclose(space);
    if (d >= 0) H5Dclose(d);
    return st;
}

gr_status gr_h5_set_str(gr_h5 *f, const char *dataset, const char *name, const char *v)
{
    gr_status     st = GR_OK;
    const int64_t n = (int64_t)strlen(v);
    char          long_name[GR_PATH_MAX];
    hid_t         type = -1;

    gr_h5_enter();
    GR_TRY(may_write(f, name));
    if (n > GR_H5_LONG) {
        gr_h5_long_name(long_name, dataset, name);
        GR_TRY(dataset_write(f, long_name, GR_U8, 1, &n, v));
        goto out;
    }
    type = H5Tcopy(H5T_C_S1);
    GR_H5_CHECK(type >= 0 && H5Tset_size(type, (size_t)n + 1) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0, GR_ERR_IO,
                f->tmp, "attribute \"%s\": type", name);
    GR_TRY(set_attribute(f, dataset, name, type, v));
out:
    if (type >= 0) H5Tclose(type);
    st = remember(f, st);
    gr_h5_leave();
    return st;
}

gr_status gr_h5_set_int(gr_h5 *f, const char *dataset, const char *name, int64_t v)
{
    gr_status st = GR_OK;

    gr_h5_enter();
    GR_TRY(may_write(f, name));
    GR_TRY(set_attribute(f, dataset, name, gr_h5_type(GR_I64), &v));
out:
    st = remember(f, st);
    gr_h5_leave();
    return st;
}

gr_status gr_h5_set_num(gr_h5 *f, const char *dataset, const char *name, double v)
{
    gr_status st = GR_OK;

    gr_h5_enter();
    GR_TRY(may_write(f, name));
    GR_TRY(set_attribute(f, dataset, name, gr_h5_type(GR_F64), &v));
out:
    st = remember(f, st);
    gr_h5_leave();
    return st;
}

/* Close the HDF5 side of a file being written: from here on it is bytes. */
static gr_status finish(gr_h5 *f)
{
    gr_status st = f->failed; /* logged when it happened */
    herr_t    closed;

    gr_h5_enter();
    if (st != GR_OK) goto out;
    GR_CHECK(f->writing, GR_ERR_ARG, "%s: open for reading, nothing to commit", f->path);
    closed = H5Fclose(f->file);
    f->file = -1;
    GR_H5_CHECK(closed >= 0, GR_ERR_IO, f->tmp, "close");
out:
    gr_h5_leave();
    return st;
}

gr_status gr_h5_commit(gr_h5 **pf)
{
    gr_status st = GR_OK;
    gr_h5    *f = *pf;

    *pf = NULL;
    GR_TRY(finish(f));
    GR_TRY(gr_seal_publish(NULL, f->tmp, f->path, f->kind, ""));
out:
    gr_h5_close(&f);
    return st;
}

void gr_h5_close(gr_h5 **f)
{
    char tmp[GR_PATH_MAX] = "";

    if (!*f) return;
    if ((*f)->writing) memcpy(tmp, (*f)->tmp, sizeof tmp);
    gr_h5_free(f);
    if (*tmp) unlink(tmp); /* not there after a commit */
}

/* ---- a layout to be filled ------------------------------------------------------------------ */

/* HDF5 has pretended success on a full disk: what it finds in the file must be what it told us while writing. */
static gr_status check_layout(const gr_h5 *f)
{
    gr_status st = GR_OK;
    hid_t     fapl = -1, file = -1, d = -1;

    gr_h5_enter();
    GR_TRY(gr_h5_access(&fapl, f->tmp));
    file = H5Fopen(f->tmp, H5F_ACC_RDONLY, fapl);
    GR_H5_CHECK(file >= 0, GR_ERR_IO, f->tmp, "open what was laid out");
    for (int64_t i = 0; i < f->n_slot; i++) {
        d = H5Dopen2(file, f->name[i], H5P_DEFAULT);
        GR_H5_CHECK(d >= 0, GR_ERR_IO, f->tmp, "dataset \"%s\" was created and is not there", f->name[i]);
        GR_CHECK(H5Dget_storage_size(d) == f->slot[i].bytes &&
                     (f->slot[i].bytes == 0 || H5Dget_offset(d) == f->slot[i].offset),
                 GR_ERR_IO, "%s: dataset \"%s\" does not lie where HDF5 put it", f->tmp, f->name[i]);
        H5Dclose(d);
        d = -1;
    }
out:
    if (d >= 0) H5Dclose(d);
    if (file >= 0) H5Fclose(file);
    if (fapl >= 0) H5Pclose(fapl);
    gr_h5_leave();
    return st;
}

/* Let a full disk say so now, before any data. */
static gr_status allocate(const char *path)
{
    gr_status st = GR_OK;
    int       fd = -1, refused;
    off_t     size;

    fd = open(path, O_RDWR | O_CLOEXEC);
    GR_CHECK(fd >= 0, GR_ERR_IO, "%s: %s", path, strerror(errno));
    size = lseek(fd, 0, SEEK_END);
    GR_CHECK(size > 0, GR_ERR_IO, "%s: %s", path, strerror(errno));
    refused = posix_fallocate(fd, 0, size);
    GR_CHECK(!refused, GR_ERR_IO, "%s: reserving %lld bytes: %s", path, (long long)size, strerror(refused));
out:
    if (fd >= 0) close(fd);
    return st;
}

gr_status gr_h5_lay_out(gr_h5 **pf, char *tmp, gr_h5_slot *slot, int64_t n_slot)
{
    gr_status st = GR_OK;
    gr_h5    *f = *pf;

    *pf = NULL;
    GR_CHECK(f->n_slot == n_slot, GR_ERR_ARG, "%s: %" PRId64 " datasets reserved, %" PRId64 " expected", f->path,
             f->n_slot, n_slot);
    GR_TRY(finish(f));
    GR_TRY(allocate(f->tmp));
    GR_TRY(check_layout(f));
    memcpy(tmp, f->tmp, GR_PATH_MAX);
    if (n_slot) memcpy(slot, f->slot, (size_t)n_slot * sizeof *slot);
    gr_h5_free(&f); /* the file stays */
out:
    gr_h5_close(&f);
    return st;
}

/* ---- writing by several ranks -------------------------------------------------------------- */

gr_status gr_h5_share(const gr_comm *c, gr_h5 **pf, char *tmp, gr_h5_slot *slot, int64_t n_slot)
{
    gr_status st = GR_OK;
    bool      laid_out = false;

    if (gr_comm_rank(c) == 0) {
        st = pf && *pf ? gr_h5_lay_out(pf, tmp, slot, n_slot)
                       : gr_fail(__FILE__, __LINE__, GR_ERR_ARG, "rank 0 has no file to share");
        laid_out = st == GR_OK;
    }
    if (st == GR_OK) st = gr_fault(c, "share");
    GR_TRY(gr_agree(c, st));
    gr_bcast(c, tmp, GR_PATH_MAX, 0);
    gr_bcast(c, slot, n_slot * (int64_t)sizeof *slot, 0);
out:
    if (st != GR_OK && laid_out) unlink(tmp);
    return st;
}

gr_status gr_h5_put(const char *tmp, const gr_h5_slot *slot, uint64_t at, const void *data, uint64_t n)
{
    gr_status st = GR_OK;
    uint64_t  end;
    int       fd = -1, closed;

    GR_CHECK(!__builtin_add_overflow(at, n, &end) && end <= slot->bytes, GR_ERR_ARG,
             "%s: bytes %" PRIu64 " to %" PRIu64 " of a dataset of %" PRIu64, tmp, at, at + n, slot->bytes);
    if (n == 0) goto out;
    fd = open(tmp, O_WRONLY | O_CLOEXEC);
    GR_CHECK(fd >= 0, GR_ERR_IO, "%s: %s", tmp, strerror(errno));
    GR_TRY(gr_pwrite_all(fd, data, n, slot->offset + at, tmp));
    closed = close(fd);
    fd = -1;
    GR_CHECK(!closed, GR_ERR_IO, "%s: close: %s", tmp, strerror(errno)); /* network file systems report here */
out:
    if (fd >= 0) close(fd);
    return st;
}

gr_status gr_h5_commit_shared(const gr_comm *c, const char *tmp, const char *path, const char *kind)
{
    return gr_seal_publish(c, tmp, path, kind, "");
}

void gr_h5_abandon_shared(const gr_comm *c, const char *tmp)
{
    if (gr_comm_rank(c) == 0) unlink(tmp);
}
