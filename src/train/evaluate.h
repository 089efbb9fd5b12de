/** @file evaluate.h  How good a model is on text it was not trained on. */
#ifndef GR_TRAIN_EVALUATE_H
#define GR_TRAIN_EVALUATE_H
#include "data/windows.h"
#include "model/model.h"

GR_C_BEGIN

typedef struct gr_quality {
    double  loss;       /**< mean cross-entropy per predicted token [nats]    */
    double  perplexity; /**< e^loss                                          */
    double  kl;         /**< mean full KL(teacher || model) [nats]; 0 without */
    int64_t tokens;     /**< predicted tokens                                */
} gr_quality;

/** [collective] Windows of `context` tokens from the start of the stream, at most `limit` tokens (0: all), dealt over
 * ranks. teacher may be NULL. Same result on all ranks; for another rank count equal to rounding of fp64 sums.
 * GR_ERR_NUMERIC when not finite. */
gr_status gr_evaluate(gr_quality *q, const gr_comm *c, gr_model *model, gr_model *teacher, gr_shards *shards,
                      int64_t context, int64_t micro_batch, int64_t limit);

GR_C_END
#endif
