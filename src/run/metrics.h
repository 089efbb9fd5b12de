/** @file metrics.h  metrics.jsonl: one JSON object per line and step, written by rank 0.
 *
 *     gr_metrics_begin(m, step);                    {"step":12,
 *     gr_metrics_num(m, "loss", loss);               "loss":3.21,
 *     gr_metrics_nums(m, "layers", x, n);            "layers":[0.1,0.2]}
 *     st = gr_metrics_end(m);
 *
 * A record reaches the file by one append, so a kill loses whole records or tears the last line, and a resumed run
 * begins by dropping the torn line and all records past the step it resumes from: the file reads as if nothing had
 * happened.
 */
#ifndef GR_RUN_METRICS_H
#define GR_RUN_METRICS_H
#include "comm/comm.h"
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN

typedef struct gr_metrics gr_metrics;

/** [collective] Open `path` for appending. Records with step > resume_step are dropped (-1: all of them, a new run),
 * and so are lines that are no record of ours; the file is rewritten (temporary file and rename) only when there is
 * something to drop. GR_ERR_IO | GR_ERR_INPUT the path is no regular file. */
gr_status gr_metrics_open(gr_metrics **m, const gr_comm *comm, const char *path, int64_t resume_step);

/** [local] NULL is fine. */
void gr_metrics_close(gr_metrics **m);

/** [rank 0; others no-op] Begin a record, and add members: keys and strings are quoted, numbers have nine digits, NaN
 * and Inf are null. */
void gr_metrics_begin(gr_metrics *m, int64_t step);
void gr_metrics_int(gr_metrics *m, const char *key, int64_t v);
void gr_metrics_num(gr_metrics *m, const char *key, double v);
void gr_metrics_str(gr_metrics *m, const char *key, const char *v);
void gr_metrics_nums(gr_metrics *m, const char *key, const double *v, int64_t n);

/** [local] Append the record. GR_ERR_IO on rank 0 only: agree, or carry it in the next reduction. */
gr_status gr_metrics_end(gr_metrics *m);

GR_C_END
#endif
