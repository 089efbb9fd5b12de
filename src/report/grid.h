/** @file grid.h  A table of cells, for Markdown and for a terminal.  [local]
 *
 *     gr_grid_open(&g, heading, "lrr", rows);
 *     gr_cell_number(gr_grid_at(&g, row, column), "%.2f", x);      (a cell that is not written stays empty)
 *     gr_grid_plain(&text, &g);
 *   out:
 *     gr_grid_close(&g);
 */
#ifndef GR_REPORT_GRID_H
#define GR_REPORT_GRID_H
#include "util/status.h"
#include "util/text.h"
#include <stdint.h>

GR_C_BEGIN

enum { GR_CELL = 96 };

typedef struct gr_grid {
    int64_t            rows;
    int                columns;
    const char *const *heading; /**< [columns], borrowed                              */
    const char        *align;   /**< [columns] of 'l' and 'r', borrowed               */
    char (*cell)[GR_CELL];      /**< [rows, columns]; what is longer is cut           */
} gr_grid;

/** As many columns as `align` has letters. GR_ERR_NOMEM. */
gr_status gr_grid_open(gr_grid *g, const char *const *heading, const char *align, int64_t rows);
void      gr_grid_close(gr_grid *g);

/** A cell: char[GR_CELL]. */
char *gr_grid_at(const gr_grid *g, int64_t row, int column);

/** Append the grid, heading first. */
void gr_grid_markdown(gr_text *t, const gr_grid *g);
void gr_grid_plain(gr_text *t, const gr_grid *g);

/** A string; empty: a dash. */
void gr_cell_text(char *cell, const char *s);

/** 12 800 -> "12.8 k": three digits say enough in a table. Negative: a dash. */
void gr_cell_count(char *cell, int64_t n);

/** NaN: a dash. */
void gr_cell_number(char *cell, const char *format, double x);

GR_C_END
#endif
