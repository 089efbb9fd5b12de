/** @file checkpoint.h  Checkpoints: logical tensors, one rename, nothing lost.
 *
 *     DIR/.lock                          flock: one run at a time; says which
 *     DIR/.generation                    the attempt that owns DIR; a run that finds another one here publishes nothing
 *     DIR/step-00001200/manifest.json    lists tensors, pieces, shards with CRC-32C; checksums itself; written last
 *     DIR/step-00001200/shard-00000-of-00002.h5 ...
 *     DIR/.tmp-step-..., .del-step-...   being written, being deleted: garbage after a crash
 *     DIR/bad-step-...                   found damaged, set aside
 *
 * A checkpoint appears by one rename and never changes. It describes logical tensors, not ranks: any number of ranks
 * can resume. Protocol, and what it was tested against: docs/checkpoints.md.
 */
#ifndef GR_STORE_CHECKPOINT_H
#define GR_STORE_CHECKPOINT_H
#include "comm/comm.h"
#include "kernels/tensor.h"
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

typedef struct gr_ckpt_dir gr_ckpt_dir; /**< a directory of checkpoints, locked by this run */

/** [collective] Create DIR if need be, take the lock (10 s, then GR_LOCKED), remove garbage of dead attempts. */
gr_status gr_ckpt_dir_open(gr_ckpt_dir **d, const gr_comm *c, const char *path);
void      gr_ckpt_dir_close(gr_ckpt_dir **d);

/** Rows [first, first + count) of dimension 0 of a tensor, in host memory. A scalar has rank 0 and one row. */
typedef struct gr_ckpt_piece {
    const char *name;
    gr_dtype    dtype;
    int         rank;
    int64_t     dim[GR_MAX_DIM];
    int64_t     first, count;
    void       *data;
} gr_ckpt_piece;

/** [collective] Save `step`. Each rank passes the pieces it owns (none, empty ones included, is fine); together they
 * must cover every tensor exactly once. A name holds no '/' and no '@'. `meta` (JSON object text, same on all ranks) is
 * kept in the manifest: counters, cursor, inputs with their seals. Afterwards all but the newest `keep` (at least 1)
 * checkpoints are deleted. A step that is already there is left alone and counts as saved. Data is read twice: it must
 * not change during the call. GR_ERR_SAVE: nothing was published, older checkpoints are untouched, the caller may go
 * on. GR_ERR_ARG: the same, because of pieces that are no checkpoint: a bug. */
gr_status gr_ckpt_save(gr_ckpt_dir *d, int64_t step, const gr_ckpt_piece *piece, int64_t n, const char *meta, int keep);

typedef struct gr_ckpt gr_ckpt; /**< a verified checkpoint, open for reading */

/** [collective] The newest complete one; *ck is NULL when there is none. Damaged ones are renamed to bad-* (one log
 * line says why) and the next older is tried; bad-* is never deleted. GR_ERR_INPUT: there were some and all were
 * damaged. To start over is then a person's decision: a second call, or run, finds none. */
gr_status gr_ckpt_open_newest(gr_ckpt **ck, gr_ckpt_dir *d);
void      gr_ckpt_close(gr_ckpt **ck);

/** [local] Look at the checkpoint in directory `path`, DIR/step-..., with no lock taken and nothing changed: its
 * manifest alone, no shard. To see which of them are sound. GR_ERR_INPUT. */
gr_status gr_ckpt_look(gr_ckpt **ck, const char *path);

int64_t gr_ckpt_shards(const gr_ckpt *ck); /**< number of shards */

/** [local] The path of shard i. */
gr_status gr_ckpt_shard_path(const gr_ckpt *ck, int64_t i, char path[4096]);

/** [local] Verify shard i in full: it is the file the manifest lists, and holds the pieces that the manifest says and
 * nothing else, of their types, shapes and checksums. With `values`, none of which is NaN or infinite. GR_ERR_INPUT. */
gr_status gr_ckpt_check(gr_ckpt *ck, int64_t i, bool values);

int64_t     gr_ckpt_step(const gr_ckpt *ck);
const char *gr_ckpt_meta(const gr_ckpt *ck); /**< JSON object text */

/** [local] Read rows of a tensor into piece->data, from whatever shards hold them. GR_ERR_INPUT when it is absent or of
 * another type or shape. A stored piece that is read whole is compared with its own checksum, too. */
gr_status gr_ckpt_read(gr_ckpt *ck, const gr_ckpt_piece *piece);

GR_C_END
#endif
