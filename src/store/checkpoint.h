/** @file checkpoint.h  Checkpoints: logical tensors, one rename, nothing lost.
 *
 *     DIR/.lock                          flock: one run at a time; says which
 *     DIR/.generation                    the attempt that owns DIR; a run that finds another one here publishes nothing
 *     DIR/step-00001200/manifest.json    lists tensors, pieces, shards with CRC-32C; checksums itself; written last
 *     DIR/step-00001200/shard-00000-of-00002.h5 ...
 *     DIR/.verified-00001200              an empty file: step 1200 was read back and is good
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

/** [local] A save under way is given up: its temporary directory is garbage for the next run. */
void gr_ckpt_dir_close(gr_ckpt_dir **d);

/** Rows [first, first + count) of dimension 0 of a tensor, in host memory. A scalar has rank 0 and one row. */
typedef struct gr_ckpt_piece {
    const char *name;
    gr_dtype    dtype;
    int         rank;
    int64_t     dim[GR_MAX_DIM];
    int64_t     first, count;
    void       *data;
} gr_ckpt_piece;

/** [local] Of n whole tensors, the same list on all ranks, leave to each the rows that `rank` of `size` saves: about
 * 1/size of the bytes, cut between rows; a pure function of tensors and size. count may become 0; data moves with
 * first. */
void gr_ckpt_deal(gr_ckpt_piece *piece, int64_t n, int rank, int size);

/** [collective] Of n whole tensors, the same list on all ranks, each rank holds the rows that gr_ckpt_deal leaves to
 * it: all ranks get all rows. Nothing is stored twice on the way. */
gr_status gr_ckpt_spread(const gr_comm *c, const gr_ckpt_piece *piece, int64_t n);

/* ---- saving ----
 *
 *     IDLE --begin--> WRITING --publish--> READING --settle--> IDLE          (an error leads to IDLE, too)
 *
 * begin copies and returns; one thread of this rank, which never calls MPI, writes. publish makes a checkpoint of what
 * is written; the same thread then drops it from the page cache and reads it back against its seals, and settle acts on
 * what it found; what goes is deleted by that thread, too. Both wait if need be: ask gr_ckpt_written first, on all
 * ranks. One save is under way at a time.
 *
 * Which are deleted: a checkpoint goes when `keep` newer ones have been read back and found good (or were read by a
 * recovery). One that reads back damaged is renamed to bad-*. So there may be keep + 1 of them, or more while disks
 * fail; and fewer never by deletion. */

typedef enum gr_ckpt_phase { GR_CKPT_IDLE, GR_CKPT_WRITING, GR_CKPT_READING } gr_ckpt_phase;

/** [local] The same on all ranks. NULL, a training that saves nothing, is idle. */
gr_ckpt_phase gr_ckpt_phase_of(const gr_ckpt_dir *d);

/** [collective] Begin to save `step`; whatever is under way is published and settled first. Each rank passes the pieces
 * it owns (none, empty ones included, is fine); together they must cover every tensor exactly once. A name holds no '/'
 * and no '@'. `meta` (JSON object text, same on all ranks) is kept in the manifest: counters, cursor, inputs with their
 * seals. Everything is copied. A step that is already there counts as saved: the phase stays IDLE.
 * GR_ERR_SAVE: older checkpoints are untouched, the caller may go on. GR_ERR_ARG: the same, because of pieces that are
 * no checkpoint: a bug. */
gr_status gr_ckpt_begin(gr_ckpt_dir *d, int64_t step, const gr_ckpt_piece *piece, int64_t n, const char *meta,
                        int keep);

/** [local] This rank's writer is done, well or badly, or there is nothing for it to do. */
bool gr_ckpt_written(const gr_ckpt_dir *d);

/** [collective] WRITING: publish. GR_ERR_SAVE, GR_ERR_ARG: as above; nothing was published. Else GR_OK: nothing to do.
 */
gr_status gr_ckpt_publish(gr_ckpt_dir *d);

/** [collective] READING: what may go is renamed, and deleted by the writer. GR_ERR_SAVE: it was damaged and is set
 * aside, save again soon. */
gr_status gr_ckpt_settle(gr_ckpt_dir *d);

/** [collective] begin, publish and settle, without a copy or a thread: data must not change during the call. */
gr_status gr_ckpt_save(gr_ckpt_dir *d, int64_t step, const gr_ckpt_piece *piece, int64_t n, const char *meta, int keep);

/** [local] What was published last (step 0, 0 bytes: nothing yet): bytes of all shards, seconds of the slowest writer.
 */
typedef struct gr_ckpt_saved {
    int64_t step, bytes;
    double  seconds;
} gr_ckpt_saved;
const gr_ckpt_saved *gr_ckpt_last(const gr_ckpt_dir *d);

typedef struct gr_ckpt gr_ckpt; /**< a verified checkpoint, open for reading */

/** [collective] The newest complete one; *ck is NULL when there is none. Damaged ones are renamed to bad-* (one log
 * line says why) and the next older is tried; bad-* is never deleted. GR_ERR_INPUT: there were some and all were
 * damaged. To start over is then a person's decision: a second call, or run, finds none.
 *
 * Every byte of every shard is verified. The rows that this rank wants (n pieces, any on any rank, none is fine) are
 * copied into piece->data on the way, so that everything is read once; except what several ranks want, which each of
 * them reads: better let each want a share (gr_ckpt_deal) and then gr_ckpt_spread. The memory holds the checkpoint's
 * rows when *ck is not NULL. It is written before the last byte is verified: a damaged checkpoint may leave its rows
 * there, for the older one to overwrite; after an error it holds anything. Pieces that the checkpoint does not have
 * (gr_ckpt_fits) are passed over: ask when it is open. */
gr_status gr_ckpt_open_newest(gr_ckpt **ck, gr_ckpt_dir *d, const gr_ckpt_piece *piece, int64_t n);
void      gr_ckpt_close(gr_ckpt **ck);

/** [local] Look at the checkpoint in directory `path`, DIR/step-..., with no lock taken and nothing changed: its
 * manifest alone, no shard. To see which of them are sound. GR_ERR_INPUT. */
gr_status gr_ckpt_look(gr_ckpt **ck, const char *path);

int64_t gr_ckpt_shards(const gr_ckpt *ck); /**< number of shards */

/** [local] The path of shard i. */
gr_status gr_ckpt_shard_path(const gr_ckpt *ck, int64_t i, char path[4096]);

/** [local] Verify shard i in full: it is the file the manifest lists, and holds the pieces that the manifest says and
 * nothing else, of their types, shapes, places and checksums. With `values`, none of which is NaN or infinite.
 * GR_ERR_INPUT. */
gr_status gr_ckpt_check(gr_ckpt *ck, int64_t i, bool values);

/** [collective] Without the lock, and changing nothing: one checkpoint (DIR/step-...), or the newest good one in DIR,
 * verified. GR_ERR_INPUT when there is none. The run it belongs to may delete it while it is being read. */
gr_status gr_ckpt_open_at(gr_ckpt **ck, const gr_comm *c, const char *path);

/** [local] Could gr_ckpt_open_at find something here? */
bool gr_ckpt_is_at(const char *path);

int64_t       gr_ckpt_step(const gr_ckpt *ck);
const char   *gr_ckpt_meta(const gr_ckpt *ck); /**< JSON object text */
const char   *gr_ckpt_path(const gr_ckpt *ck); /**< DIR/step-... */
const char   *gr_ckpt_id(const gr_ckpt *ck);   /**< identifies the content, as a seal does a file's */
bool          gr_ckpt_has(const gr_ckpt *ck, const char *tensor);
int64_t       gr_ckpt_count(const gr_ckpt *ck);
gr_ckpt_piece gr_ckpt_tensor(const gr_ckpt *ck, int64_t i); /**< tensor i, whole, without data; sorted by name */

/** [local] Are these rows of a tensor that it has? GR_ERR_INPUT when it is absent or of another type or shape,
 * GR_ERR_ARG when there are no such rows. */
gr_status gr_ckpt_fits(const gr_ckpt *ck, const gr_ckpt_piece *piece);

/** [local] Read rows of a tensor, which must fit, into piece->data, from whatever shards hold them. A stored piece that
 * is read whole is compared with its own checksum. */
gr_status gr_ckpt_read(const gr_ckpt *ck, const gr_ckpt_piece *piece);

GR_C_END
#endif
