/** @file teacher.h  Storing the teacher's predictions. */
#ifndef GR_TRAIN_TEACHER_H
#define GR_TRAIN_TEACHER_H
#include "data/windows.h"
#include "model/model.h"
#include "run/run.h"

GR_C_BEGIN
/** [collective] Run the model over every window of data.shards and store, for every position, the logits.k most likely
 * next tokens and the tail mass in run.out (store/logits.h). Files are dealt over ranks and committed one by one; those
 * that are there already are skipped, so a rerun continues. On request (signal) it leaves with GR_STOP after the file
 * under way. */
gr_status gr_store_predictions(gr_run *run, gr_model *model, gr_shards *shards);
GR_C_END
#endif
