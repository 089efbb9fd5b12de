/** @file report.h  What a pipeline did, or a sweep: tables and plots from the outputs of its stages.
 *
 * Written to run.out: report.json, report.md, loss_STAGE.svg for every training run, STAGE_layers.svg for those that
 * record an error per layer; a table goes to stdout. The two reports come last, so they never speak of missing plots.
 *
 * Of a sweep (report.sweep) the same files: candidates ranked, with the spread over seeds, and all members
 * (ranking_page.h); loss_STAGE.svg has every member's curve.
 */
#ifndef GR_REPORT_REPORT_H
#define GR_REPORT_REPORT_H
#include "run/run.h"
#include "util/status.h"

GR_C_BEGIN

/** [collective] Rank 0 reads, draws and writes. GR_ERR_INPUT a stage's file is missing or damaged | GR_ERR_CONFIG a
 * list entry is wrong, or gnuplot is not installed | GR_ERR_IO. A sweep without a member that has begun is reported,
 * too, and gives GR_ERR_INPUT. */
gr_status gr_report_write(const gr_run *run);

GR_C_END
#endif
