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

/** One of many curves in a plot. Those of a group share a colour and, by the first of them, an entry in the key. */
typedef struct gr_line {
    const gr_curve *curve; /**< n > 0 */
    int64_t         group;
    const char     *label; /**< of the group */
} gr_line;

/** Loss of the n runs against tokens, or steps where one of them counts no tokens; errors of layers on a logarithmic
 * scale. */
gr_status gr_plot_lines(const char *svg, const char *title, const gr_line *line, int64_t n);

GR_C_END
#endif
