/** @file safetensors.h  Hugging Face's weight files, read as untrusted and written by many ranks.
 *
 *     u64 length of the header, little-endian | header: JSON {name: {dtype, shape, data_offsets}} | data
 *
 * Source  https://github.com/huggingface/safetensors (README, "Format"). On opening, everything in the header is
 * checked: limits (64 MiB, 1e6 tensors, names of 512 bytes), types, shape times size against the offsets, offsets
 * without gap or overlap up to the end of the file, no name twice. Only F32, BF16 and F16 tensors can be read; others
 * may be there, and are an error when they are asked for.
 */
#ifndef GR_STORE_SAFETENSORS_H
#define GR_STORE_SAFETENSORS_H
#include "comm/comm.h"
#include "kernels/tensor.h"
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

/* ---- reading ------------------------------------------------------------------------------- */

typedef struct gr_st gr_st; /**< an open file, or all files of a model directory: one name space */

typedef struct gr_st_info {
    const char *file; /**< path; belongs to the gr_st */
    gr_dtype    dtype;
    int         rank;
    int64_t     dim[GR_MAX_DIM]; /**< unused dimensions are 1 */
    uint64_t    offset, bytes;   /**< in that file */
} gr_st_info;

/** [local] Open one file. GR_ERR_INPUT names file, tensor, found, expected. */
gr_status gr_st_open(gr_st **s, const char *path);

/** [local] Open a model directory: model.safetensors, or else the files that model.safetensors.index.json lists (each
 * in this directory, each tensor in the file the index says, no tensor twice). */
gr_status gr_st_dir_open(gr_st **s, const char *dir);

/** [local] NULL is fine. */
void gr_st_close(gr_st **s);

/** [local] Number of tensors, and their names sorted bytewise (they belong to s). */
int64_t     gr_st_count(const gr_st *s);
const char *gr_st_name(const gr_st *s, int64_t i);
bool        gr_st_has(const gr_st *s, const char *name);

/** [local] Where and what a tensor is. GR_ERR_INPUT when absent, of another dtype than F32, BF16, F16, or of more than
 * GR_MAX_DIM dimensions. */
gr_status gr_st_find(const gr_st *s, const char *name, gr_st_info *info);

/** [local] Read rows [first, first + count) of dimension 0 (a scalar has one row) into host memory, as stored. Rows
 * outside the tensor are GR_ERR_ARG. May be called by several threads at once. */
gr_status gr_st_read(const gr_st *s, const char *name, int64_t first, int64_t count, void *data);

/** [local] The same, converted to fp32. */
gr_status gr_st_read_f32(const gr_st *s, const char *name, int64_t first, int64_t count, float *data);

/* ---- writing ------------------------------------------------------------------------------- */

typedef struct gr_st_spec {
    const char *name;
    gr_dtype    dtype;
    int         rank;
    int64_t     dim[GR_MAX_DIM];
} gr_st_spec;

typedef struct gr_st_plan gr_st_plan; /**< the layout of a file: header, and an offset per tensor */

/** [local] Lay out a file. A pure function of the specs: every rank makes its own plan and all are equal. Order of
 * the data: widest element first, then by name, so that each tensor is aligned to its element. GR_ERR_ARG: a name
 * twice, empty or above 512 bytes; a negative or overflowing shape. */
gr_status gr_st_plan_open(gr_st_plan **p, const gr_st_spec *spec, int64_t n);
void      gr_st_plan_close(gr_st_plan **p);

/** [local] Size of the whole file. */
uint64_t gr_st_plan_bytes(const gr_st_plan *p);

/** [collective] Rank 0 creates the temporary file, allocates its space (a full disk is reported here) and writes the
 * header; tmp (GR_PATH_MAX bytes) names it on all ranks. On failure nothing is left behind. */
gr_status gr_st_start(const gr_comm *c, const gr_st_plan *p, const char *path, char *tmp);

/** [local] Write n bytes of tensor `name`, starting at its byte `at`. Any number of ranks, between start and commit. */
gr_status gr_st_put(const gr_st_plan *p, const char *tmp, const char *name, uint64_t at, const void *data, uint64_t n);

/** [collective] All ranks have written (the caller has agreed on that): fsync, rename to `path`. On failure the
 * temporary file is removed. */
gr_status gr_st_commit(const gr_comm *c, const gr_st_plan *p, const char *tmp, const char *path);

/** [collective] Instead of commit, when the ranks have agreed that writing failed. */
void gr_st_abandon(const gr_comm *c, const char *tmp);

GR_C_END
#endif
