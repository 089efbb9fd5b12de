/** @file loader.h  Which windows a step trains on: a pure function of (seed, step), for any number of ranks.
 *
 * The stream is cut into S = floor((tokens - 1) / context) windows. Epoch e visits them in the order of a keyed
 * permutation of [0, S) (util/rng.h). Step t takes samples t * batch ... (t + 1) * batch - 1 of that endless sequence;
 * rank r of P takes its share of them in order. So there is no position to save, every rank count sees the same tokens
 * in the same order, and no shuffle buffer exists.
 */
#ifndef GR_DATA_LOADER_H
#define GR_DATA_LOADER_H
#include "config/config.h"
#include "data/windows.h"

GR_C_BEGIN

typedef struct gr_loader gr_loader;

/** [collective over `c`] `data_ranks` share the batches (comm/mesh.h). Open the corpus (and the logits store, unless
 * its directory is "") and check that they belong together and to the model: vocabulary `vocab`, corpus digest,
 * context. GR_ERR_INPUT or GR_ERR_CONFIG says what does not fit. */
gr_status gr_loader_open(gr_loader **l, const gr_comm *c, const gr_comm *data_ranks, const gr_ops *ops,
                         const gr_cfg_data *data, const gr_cfg_train *train, const char *logits_dir, int64_t vocab);
void      gr_loader_close(gr_loader **l);

/** [local] Micro-batches of this rank in `step` (may be 0 when there are more ranks than sequences). */
int64_t gr_loader_micros(const gr_loader *l, int64_t step);

/** [local] Micro-batch i of `step`. */
gr_status gr_loader_get(gr_loader *l, int64_t step, int64_t i, gr_batch *batch);

/** First stream position of the window that is sample s of the run. Pure. */
int64_t gr_loader_start(const gr_loader *l, int64_t sample);

int64_t    gr_loader_step_tokens(const gr_loader *l); /**< positions per step, over all ranks */
gr_shards *gr_loader_shards(gr_loader *l);
gr_logits *gr_loader_logits(gr_loader *l); /**< NULL without a store */

GR_C_END
#endif
