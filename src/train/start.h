/** @file start.h  What graft-extend starts from. */
#ifndef GR_TRAIN_START_H
#define GR_TRAIN_START_H
#include "model/model.h"
#include "run/run.h"

GR_C_BEGIN
/** [collective] Load start.weights, or make a new Transformer from start.config (exactly one of the two); with
 * start.rope_theta the model, and the config.json it will be saved with, get that RoPE base, and
 * max_position_embeddings grows to data.context if it is smaller. */
gr_status gr_start_model(gr_model **m, const gr_run *run);
GR_C_END
#endif
