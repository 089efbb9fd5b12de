/** @file plot.h  Curves as SVG, drawn by gnuplot.  [local]
 *
 * Long runs are averaged over equal stretches of steps, so that a file stays small whatever the run's length.
 */
#ifndef GR_REPORT_PLOT_H
#define GR_REPORT_PLOT_H
#include "report/curve.h"
#include "util/status.h"

GR_C_BEGIN

/** Loss against tokens (steps where none are counted) -> svg. With a teacher, KL and cross-entropy beside it.
 * GR_ERR_CONFIG gnuplot is not installed | GR_ERR_IO */
gr_status gr_plot_loss(const char *svg, const gr_curve *c);

/** Error of every layer against steps, logarithmic -> svg. Needs n_layer > 0. */
gr_status gr_plot_layers(const char *svg, const gr_curve *c);

GR_C_END
#endif
