/** @file manifest.h  What a checkpoint holds: the text of manifest.json, and its only parser.  [local]
 *
 *     {"format":2, "step":1200, "attempt":"7-1f3-...", "world":4,
 *      "shards":  [{"file":"shard-00000-of-00002.h5", "bytes":..., "crc32c":"8 hex"}, ...],
 *      "tensors": [{"name":"...", "dtype":"f32", "shape":[...], "pieces":[[shard, first, count, offset, "8 hex"],
 * ...]},
 *                  ...],
 *      "meta":    {...},
 *      "crc32c":  "8 hex"}                                                              (store/json_seal.h)
 *
 * Tensors are sorted by name, pieces by first row. A shard's crc32c is the one of its seal, a piece's that of its
 * bytes. In its shard a piece is the dataset NAME when it is the whole tensor, NAME@FIRST otherwise; its bytes begin at
 * byte `offset` of the file, as HDF5 says, too: who reads a checkpoint does not need HDF5, and anybody's HDF5 reads it.
 */
#ifndef GR_STORE_MANIFEST_H
#define GR_STORE_MANIFEST_H
#include "kernels/tensor.h"
#include "store/seal.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/status.h"

GR_C_BEGIN

enum { GR_TENSOR_NAME = 200, GR_SHARD_NAME = 40, GR_MAX_SHARDS = 100000 };

typedef struct gr_manifest_piece {
    int64_t  shard, first, count; /**< rows of dimension 0 */
    uint64_t offset, bytes;       /**< in the file of the shard, inside what its seal covers */
    uint32_t crc;
} gr_manifest_piece;

typedef struct gr_manifest_tensor {
    const char *name; /**< belongs to the JSON tree */
    gr_dtype    dtype;
    int         rank;
    int64_t     dim[GR_MAX_DIM]; /**< unused dimensions are 1 */
    int64_t     piece, n_piece;  /**< a range of the manifest's pieces; they cover rows 0, 1, ... in order, once */
} gr_manifest_tensor;

typedef struct gr_manifest {
    json_t             *tree; /**< owns the strings */
    int64_t             step, world;
    gr_seal            *shard; /**< [n_shard]: kind "checkpoint", bytes, crc, id */
    int64_t             n_shard;
    gr_manifest_tensor *tensor; /**< [n_tensor], sorted by name */
    int64_t             n_tensor;
    gr_manifest_piece  *piece;
    int64_t             n_piece, room_piece;
    char               *meta;
    char                id[17]; /**< identifies the text, and through it all shards: like a seal's */
} gr_manifest;

/** Parse and check everything that can be checked without the shards: checksum, members, types, ranges, and that every
 * tensor is covered exactly once. `name` leads the message. GR_ERR_INPUT. */
gr_status gr_manifest_parse(gr_manifest **m, const char *text, uint64_t n, const char *name);
void      gr_manifest_close(gr_manifest **m);

/** NULL when there is no such tensor. */
const gr_manifest_tensor *gr_manifest_find(const gr_manifest *m, const char *name);

/** "shard-00000-of-00004.h5" */
void gr_shard_name(char dst[GR_SHARD_NAME], int64_t i, int64_t n);

/** The dataset that holds rows [first, first + count) of a tensor of `rows` rows. */
gr_status gr_piece_name(char dst[GR_PATH_MAX], const char *tensor, int64_t rows, int64_t first, int64_t count);

/* ---- making one ---- */

/** One piece as a rank reports it: this struct, then n_name bytes of the name. */
typedef struct gr_piece_record {
    int64_t  shard, first, count;
    uint64_t offset; /**< from the start of the shard's file */
    int64_t  dim[GR_MAX_DIM];
    int32_t  dtype, rank;
    uint32_t crc, n_name;
} gr_piece_record;

/** Rank 0: the text of a manifest from the records of all ranks (n bytes), which may come in any order. It is parsed
 * again before it is returned. GR_ERR_ARG: the pieces do not cover every tensor exactly once, or `meta` is no JSON
 * object. */
gr_status gr_manifest_compose(char **text, uint64_t *n_text, int64_t step, const char *attempt, int64_t world,
                              const gr_seal *shard, int64_t n_shard, const char *records, int64_t n, const char *meta);

GR_C_END
#endif
