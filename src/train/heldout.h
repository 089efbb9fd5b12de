/** @file heldout.h  Looking at held-out text while training. */
#ifndef GR_TRAIN_HELDOUT_H
#define GR_TRAIN_HELDOUT_H
#include "train/steps.h"

GR_C_BEGIN

typedef struct gr_heldout gr_heldout;

/** [collective] Open heldout.shards; *h is NULL when there are none, and the calls below then do nothing. */
gr_status gr_heldout_open(gr_heldout **h, gr_run *run);
void      gr_heldout_close(gr_heldout **h);

/** [collective] When due: perplexity of t->model, logged and recorded as "heldout_loss". */
gr_status gr_heldout_perplexity(gr_heldout *h, gr_trainer *t);

/** [collective] When due: mean over the aligned layers of their normalised errors, logged, and recorded as
 * "heldout_loss". */
gr_status gr_heldout_align(gr_heldout *h, gr_trainer *t, gr_aligner *a);

GR_C_END
#endif
