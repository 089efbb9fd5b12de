/** @file h5.h  The only room that says HDF5: sealed files, read as untrusted.
 *
 * A Graft file is a valid HDF5 file with a 512-byte user block that seals it:
 *
 *     GRAFT <format> <kind> bytes=<n> [content=<16 hex> ]crc32c=<8 hex>\n          padded with zero bytes
 *
 * The checksum covers every byte of the file, in 16 MiB blocks that ranks verify in parallel
 * (definition: store/seal.h). It is checked before HDF5 sees the file, because HDF5 itself detects
 * no bit flip and crashes on some (docs/formats.md).
 * Files are written under a temporary name, sealed, fsynced, renamed, and the directory fsynced:
 * a file that is there is complete.
 *
 * Any thread may call (Debian's HDF5 is not thread-safe: one lock of the process is held around it, never while waiting
 * for other ranks), but each open file belongs to one thread at a time.
 */
#ifndef GR_STORE_H5_H
#define GR_STORE_H5_H
#include "comm/comm.h"
#include "kernels/tensor.h"
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

enum { GR_H5_PAGE = 4096, GR_H5_PAGED = 65536 };

typedef struct gr_h5 gr_h5; /**< an open file, for reading or for writing */

/** Where a dataset's bytes lie, for direct writing by several ranks. */
typedef struct gr_h5_slot {
    uint64_t offset; /**< from the start of the file, user block included */
    uint64_t bytes;
} gr_h5_slot;

/* ---- writing by one process ------------------------------------------------------------- */

/** [local] Start `path` under a temporary name. kind: "weights", "shard", "logits", "checkpoint", ...: 1 to 32 of
 * [a-z0-9_-]. The first error of any call below is remembered, and commit returns it: calls may be made without a
 * check in between, but not after an error that the caller means to ignore. Same calls, same bytes. */
gr_status gr_h5_create(gr_h5 **f, const char *path, const char *kind);

/** [local] The same, laid out for direct writing: datasets of GR_H5_PAGED bytes and more begin at multiples of
 * GR_H5_PAGE bytes of the file. (The user block grows to a page; the seal stays its first 512 bytes.) */
gr_status gr_h5_create_paged(gr_h5 **f, const char *path, const char *kind);

/** [local] Write a whole dataset (contiguous, little-endian) from host memory. rank 0 (a scalar) to 4. `name` may hold
 * dots but no slash and no leading "@". BF16 is stored as a 16-bit HDF5 float type that h5dump and h5py print as
 * numbers. */
gr_status gr_h5_write(gr_h5 *f, const char *name, gr_dtype dtype, int rank, const int64_t *dim, const void *data);

/** [local] Reserve a dataset without writing it (allocated, not filled); its bytes are written later
 * through the slots of gr_h5_share by any rank. */
gr_status gr_h5_reserve(gr_h5 *f, const char *name, gr_dtype dtype, int rank, const int64_t *dim);

/** [local] Attributes of the file (dataset NULL) or of a dataset. Strings are UTF-8, any length
 * (above 60 000 bytes they are stored as a dataset named "@name", or "@dataset@name", and read back by the same call).
 * Setting an attribute twice is an error. */
gr_status gr_h5_set_str(gr_h5 *f, const char *dataset, const char *name, const char *v);
gr_status gr_h5_set_int(gr_h5 *f, const char *dataset, const char *name, int64_t v);
gr_status gr_h5_set_num(gr_h5 *f, const char *dataset, const char *name, double v);

/** [local] Close, seal, fsync, rename into place. Always closes; *f becomes NULL. */
gr_status gr_h5_commit(gr_h5 **f);

/** [local] Close and remove what was being written, or close a file open for reading. NULL is fine. */
void gr_h5_close(gr_h5 **f);

/** [local] A file on which everything is created and reserved: close the HDF5 side, allocate its space, and ask HDF5
 * once more where the datasets lie. A full disk is reported here, before any data. *f becomes NULL; the file stays
 * under its temporary name `tmp` (GR_PATH_MAX bytes), not sealed, to be filled (store/direct.h, gr_h5_put); slot[i]
 * belongs to reserved dataset i, in order of gr_h5_reserve. On failure nothing is left behind. */
gr_status gr_h5_lay_out(gr_h5 **f, char *tmp, gr_h5_slot *slot, int64_t n_slot);

/* ---- writing one file by several ranks, without MPI-IO ------------------------------------ */

/** [collective] Rank 0 passes a file on which everything is created and reserved (others NULL); it is closed by HDF5
 * but not sealed, and *f becomes NULL. The space is allocated here: a full disk is reported before any data. On return
 * `tmp` (GR_PATH_MAX bytes) names the temporary file and `slot[i]` says where reserved dataset i (in order of
 * gr_h5_reserve) lies, on every rank. Each rank then writes its bytes with gr_h5_put. On failure nothing is left
 * behind. */
gr_status gr_h5_share(const gr_comm *c, gr_h5 **f, char *tmp, gr_h5_slot *slot, int64_t n_slot);

/** [local] Write n bytes of a reserved dataset, starting at its byte `at`. Any number of ranks, at any time between
 * share and commit_shared. */
gr_status gr_h5_put(const char *tmp, const gr_h5_slot *slot, uint64_t at, const void *data, uint64_t n);

/** [collective] All ranks have written (the caller has agreed on that): fsync, checksum (blocks dealt over ranks),
 * seal, rename to `path`. On failure the temporary file is removed. */
gr_status gr_h5_commit_shared(const gr_comm *c, const char *tmp, const char *path, const char *kind);

/** [collective] Instead of commit_shared, when the ranks have agreed that writing failed. */
void gr_h5_abandon_shared(const gr_comm *c, const char *tmp);

/* ---- reading ------------------------------------------------------------------------------- */

/** [local] Verify seal and checksum, then open. kind NULL accepts any. GR_ERR_INPUT names file, found, expected. */
gr_status gr_h5_open(gr_h5 **f, const char *path, const char *kind);

/** [collective] The same with the checksum's blocks dealt over the ranks; every rank opens the file. */
gr_status gr_h5_open_all(const gr_comm *c, gr_h5 **f, const char *path, const char *kind);

/** [local] Open a file that a rank of this job has verified: its seal must be the one found then (gr_h5_seal_of), its
 * content is not read again. GR_ERR_INPUT. */
gr_status gr_h5_open_known(gr_h5 **f, const char *path, const char *kind, const char *seal);

/** [local] The seal of a file open for reading ("" for writing): identifies its content, 16 hex digits of bytes and
 * crc. Of a file that is not open: gr_seal_read (store/seal.h). */
const char *gr_h5_seal_of(const gr_h5 *f);

/** [local] What its seal says of the content (store/seal.h), else the seal itself: 16 hex digits. */
const char *gr_h5_content_of(const gr_h5 *f);

/** [local] Names of all datasets, sorted bytewise, those of long strings aside; the array and names belong to the file.
 */
gr_status gr_h5_names(gr_h5 *f, const char *const **names, int64_t *n);

bool gr_h5_has(gr_h5 *f, const char *name);

/** [local] Type and shape. */
gr_status gr_h5_info(gr_h5 *f, const char *name, gr_dtype *dtype, int *rank, int64_t dim[GR_MAX_DIM]);

/** [local] The byte of the file, user block included, where a dataset begins: its bytes lie there in one piece. */
gr_status gr_h5_offset(gr_h5 *f, const char *name, uint64_t *offset);

/** [local] Read rows [first, first + count) of dimension 0 (a scalar has one row) into host memory, as stored. The
 * dataset must have exactly this dtype, contiguous storage, no external files, no filters: GR_ERR_INPUT. Rows outside
 * it are GR_ERR_ARG: compare with gr_h5_info first. */
gr_status gr_h5_read(gr_h5 *f, const char *name, gr_dtype dtype, int64_t first, int64_t count, void *data);

/** [local] The same, converted to fp32 from F32, BF16 or F16. */
gr_status gr_h5_read_f32(gr_h5 *f, const char *name, int64_t first, int64_t count, float *data);

/** [local] Attributes; strings go to counted memory. GR_ERR_INPUT when absent or of another type. */
gr_status gr_h5_get_str(gr_h5 *f, const char *dataset, const char *name, char **v);
gr_status gr_h5_get_int(gr_h5 *f, const char *dataset, const char *name, int64_t *v);
gr_status gr_h5_get_num(gr_h5 *f, const char *dataset, const char *name, double *v);
bool      gr_h5_has_attr(gr_h5 *f, const char *dataset, const char *name);

GR_C_END
#endif
