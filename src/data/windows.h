/** @file windows.h  From the token stream to micro-batches.
 *
 * A window is `length` consecutive positions of the stream. Several windows packed one after another make a micro-batch
 * of N rows; documents that begin inside a window, and the window's own first token, begin anew: positions restart,
 * nothing crosses (gr_seq). The target of a position is the next token of the stream when it belongs to the same
 * document and its loss mask is 1, else -1.
 */
#ifndef GR_DATA_WINDOWS_H
#define GR_DATA_WINDOWS_H
#include "kernels/backend.h"
#include "store/logits.h"
#include "store/shards.h"

GR_C_BEGIN

/** A micro-batch, borrowed from the gr_windows that filled it until the next fill. Tensors are backend memory. */
typedef struct gr_batch {
    gr_tensor  ids;  /**< I32 [N]                                                       */
    gr_tensor  mask; /**< U8 [N] loss mask of the tokens themselves                     */
    gr_seq     seq;
    gr_targets targets; /**< kl is 0; set it to learn from top_id                           */
} gr_batch;

typedef struct gr_windows gr_windows;

/** [local] Room for `capacity` tokens per micro-batch. logits may be NULL; then targets carry no top_id. All are
 * borrowed. */
gr_status gr_windows_open(gr_windows **w, const gr_ops *ops, gr_shards *shards, gr_logits *logits, int64_t capacity);
void      gr_windows_close(gr_windows **w);

/** [local] Fill from n windows: start[i], length[i]; sum of lengths <= capacity. */
gr_status gr_windows_fill(gr_windows *w, const int64_t *start, const int64_t *length, int64_t n, gr_batch *batch);

/** [local] Up to n consecutive windows of `context` tokens from position `at` on, the last one cut short at `end`: how
 * a stream is read from end to end. batch->seq.n says how many positions that were. */
gr_status gr_windows_run(gr_windows *w, int64_t at, int64_t end, int64_t context, int64_t n, gr_batch *batch);

/** [local] The same from token ids in host memory, as one document (evaluate's task: logits). No targets. */
gr_status gr_windows_from_ids(gr_windows *w, const int32_t *ids, int64_t n, gr_batch *batch);

GR_C_END
#endif
