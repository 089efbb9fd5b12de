/** @file results.h  What graft-evaluate leaves behind. */
#ifndef GR_TRAIN_RESULTS_H
#define GR_TRAIN_RESULTS_H
#include "model/model.h"
#include "run/run.h"
#include "store/shards.h"

GR_C_BEGIN

/** [collective] Do the options of the chosen task fit together? GR_ERR_CONFIG. */
gr_status gr_results_check(const gr_run *run);

/** [collective] Write `path`, results.json: perplexity, loss [nats], tokens, kl [nats] (with a teacher), seconds,
 * weights, content, commit, created. Also one line on stderr. */
gr_status gr_results_perplexity(gr_run *run, gr_model *model, gr_model *teacher, gr_shards *shards, const char *path);

/** [collective] Write `path`, logits.h5, kind "raw-logits": F32 "logits" [B, T, V] for the B sequences of T ids in
 * evaluate.ids, dealt over ranks. */
gr_status gr_results_logits(gr_run *run, gr_model *model, const char *path);

GR_C_END
#endif
