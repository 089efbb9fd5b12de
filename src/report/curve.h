/** @file curve.h  What a training run recorded: its metrics.jsonl as columns.  [local]
 *
 * One JSON object per line. Wanted are "step" (rising) and "loss"; used where present are "ce", "kl", "tokens" (so
 * far), "tokens_per_s", and "layers" (one error per layer) with "layer_ids". Lines without "loss" are other records; of
 * those, "heldout_loss" is used.
 */
#ifndef GR_REPORT_CURVE_H
#define GR_REPORT_CURVE_H
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN

enum { GR_MAX_NAME = 64 };

typedef struct gr_curve {
    char     stage[GR_MAX_NAME];             /**< set by the caller                                              */
    int64_t  n;                              /**< records                                                        */
    double  *step, *tokens;                  /**< [n]                                                            */
    double  *loss, *ce, *kl;                 /**< [n], nats; NaN where a record has none                         */
    double   seconds;                        /**< spent in steps: sum of new tokens / tokens per second; else 0  */
    int64_t  n_held;                         /**< looks at held-out text                                         */
    double  *held_step, *held_tokens, *held; /**< [n_held]                                           */
    int64_t  n_layer;                        /**< 0: no errors by layer                                          */
    int64_t *layer_id;                       /**< [n_layer]                                                      */
    double  *layer;                          /**< [n, n_layer]                                                   */
} gr_curve;

/** Read DIR/metrics.jsonl. GR_ERR_INPUT names file and line: missing, torn, no JSON, steps that do not rise. */
gr_status gr_curve_read(gr_curve *c, const char *dir);

/** The same of a run that may be under way, or was killed: a torn last line is left out, and there may be no record yet
 * (n is 0). */
gr_status gr_curve_read_running(gr_curve *c, const char *dir);

void gr_curve_close(gr_curve *c);

/** Mean of the n values y, y + stride, ... that are not NaN; NaN when there is none. */
double gr_curve_mean(const double *y, int64_t n, int64_t stride);

/** Loss at the end: the mean over the last twentieth, as one step alone is noise. NaN when there is no record. */
double gr_curve_final(const gr_curve *c);

GR_C_END
#endif
