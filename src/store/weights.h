/** @file weights.h  A model on disk: one sealed HDF5 file, independent of any rank count.
 *
 * One dataset per tensor under its canonical (HuggingFace / hybrid-model-factory) name, row-major, full shape, in the
 * type of the source (F32, BF16, F16). Attributes: config_json (the source's config.json, verbatim), tokenizer_json
 * (may be empty), pattern (mixer names, one per layer, comma-separated), config (resolved configuration of the program
 * that wrote it), program, version, commit, created, inputs (JSON: what it was made from, path and content).
 *
 * Two files of the same content are the same model: name, type, shape and every row of every tensor, config_json,
 * tokenizer_json and pattern. Who wrote it, when and from what does not count. The content is a 64-bit sum of hashes,
 * so ranks can share its computation; it is in the seal (store/seal.h), under its checksum.
 */
#ifndef GR_STORE_WEIGHTS_H
#define GR_STORE_WEIGHTS_H
#include "comm/comm.h"
#include "kernels/tensor.h"
#include "util/json.h"
#include "util/status.h"

GR_C_BEGIN

/** Who wrote a file, from what: the attributes of every Graft product. Strings are borrowed. */
typedef struct gr_provenance {
    const char *program, *version, *commit, *created, *config, *inputs_json;
} gr_provenance;

typedef struct gr_tensor_info {
    const char *name;
    gr_dtype    dtype;
    int         rank;
    int64_t     dim[GR_MAX_DIM];
} gr_tensor_info;

/* ---- reading ---- */

typedef struct gr_weights gr_weights;

/** [collective] A weights file, or a directory holding weights.h5, or a checkpoint of a training program (its
 * directory, or the directory of checkpoints: the newest good one): the values it saved, over the weights that the run
 * started from, which must still be where they were, of the same content. Read-only, without the lock. Verified: the
 * checksum, its blocks dealt over the ranks; every tensor F32, BF16 or F16 and not empty; config_json a JSON object. */
gr_status gr_weights_open(gr_weights **w, const gr_comm *c, const char *path);
void      gr_weights_close(gr_weights **w);

const char *gr_weights_path(const gr_weights *w);
/** Identifies the model: 16 hex digits; a checkpoint's is that of its manifest. */
const char *gr_weights_content(const gr_weights *w);
const char *gr_weights_config_json(const gr_weights *w);
const char *gr_weights_tokenizer_json(const gr_weights *w); /**< "" when there is none */
const char *gr_weights_pattern(const gr_weights *w);

/** [local] A text attribute of the file (program, version, config, inputs, ...) in counted memory. GR_ERR_INPUT. */
gr_status gr_weights_get(const gr_weights *w, const char *attribute, char **text);

int64_t               gr_weights_count(const gr_weights *w);
const gr_tensor_info *gr_weights_info(const gr_weights *w, int64_t i);
int64_t               gr_weights_find(const gr_weights *w, const char *name); /**< -1: absent */

/** [local] Rows [first, first + count) of dimension 0 (a scalar has one) as fp32, host memory. NaN or Inf is
 * GR_ERR_INPUT naming the tensor and place. */
gr_status gr_weights_read(gr_weights *w, int64_t i, int64_t first, int64_t count, float *data);

/** [local] The same rows as stored; the same check. */
gr_status gr_weights_read_raw(gr_weights *w, int64_t i, int64_t first, int64_t count, void *data);

/* ---- what a checkpoint says, to be read as weights ---- */

#define GR_VALUE_PREFIX "value:" /**< a checkpoint's tensor value:NAME is parameter NAME, F32 */

typedef struct gr_weights_base {
    const char *config_json, *pattern;
    const char *path, *content;             /**< of the weights below it; path NULL: there are none ...        */
    const char *tokenizer, *tokenizer_json; /**< ... and the tokenizer's file ("" for none) is referred to     */
} gr_weights_base;

/** [local] The member "model" of a checkpoint's meta. */
gr_status gr_weights_refer(const gr_weights_base *base, json_t **model);

/* ---- writing, tensors dealt over the ranks ---- */

/** Called for the tensors that this rank writes, in pieces of whole rows: put rows [first, first + count) of tensor i,
 * as its dtype, at `data`. */
typedef gr_status (*gr_tensor_source)(void *user, int64_t i, int64_t first, int64_t count, void *data);

typedef struct gr_weights_plan {
    const gr_tensor_info *tensor; /**< same on all ranks */
    int64_t               n;
    const char           *config_json, *tokenizer_json, *pattern;
    gr_provenance         by;
} gr_weights_plan;

/** [collective] Write and publish `path`; its directory is made if need be. Each rank asks `source` for about 1/ranks
 * of the bytes, in file order, and holds at most one piece of 64 MiB (or one row, if that is longer). `source` is
 * called a different number of times on each rank: it must not communicate. The file's bytes do not depend on the rank
 * count. On any failure no file appears, and all ranks return the same status: GR_ERR_NUMERIC names the tensor and
 * place of a NaN or Inf. */
gr_status gr_weights_write(const gr_comm *c, const char *path, const gr_weights_plan *plan, gr_tensor_source source,
                           void *user);

GR_C_END
#endif
