#include "report/grid.h"
#include "util/mem.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

gr_status gr_grid_open(gr_grid *g, const char *const *heading, const char *align, int64_t rows)
{
    *g = (gr_grid){rows, (int)strlen(align), heading, align, NULL};
    return gr_alloc(&g->cell, (uint64_t)rows * (uint64_t)g->columns, sizeof *g->cell, "cells of a table");
}

void gr_grid_close(gr_grid *g)
{
    gr_free(&g->cell);
    *g = (gr_grid){0};
}

char *gr_grid_at(const gr_grid *g, int64_t row, int column)
{
    return g->cell[row * g->columns + column];
}

void gr_grid_markdown(gr_text *t, const gr_grid *g)
{
    for (int k = 0; k < g->columns; k++) gr_text_add(t, "| %s ", g->heading[k]);
    gr_text_add(t, "|\n");
    for (int k = 0; k < g->columns; k++) gr_text_add(t, g->align[k] == 'l' ? "|---" : "|---:");
    gr_text_add(t, "|\n");
    for (int64_t i = 0; i < g->rows; i++) {
        for (int k = 0; k < g->columns; k++) gr_text_add(t, "| %s ", gr_grid_at(g, i, k));
        gr_text_add(t, "|\n");
    }
}

static int width_of(const gr_grid *g, int column)
{
    size_t width = strlen(g->heading[column]);

    for (int64_t i = 0; i < g->rows; i++) {
        const size_t n = strlen(gr_grid_at(g, i, column));
        if (n > width) width = n;
    }
    return (int)width;
}

/* Row -1 is the heading. */
static void add_line(gr_text *t, const gr_grid *g, int64_t row)
{
    for (int k = 0; k < g->columns; k++) {
        const char *cell = row < 0 ? g->heading[k] : gr_grid_at(g, row, k);
        const int   width = width_of(g, k);

        gr_text_add(t, "  %*s", g->align[k] == 'l' ? -width : width, cell);
    }
    gr_text_add(t, "\n");
}

void gr_grid_plain(gr_text *t, const gr_grid *g)
{
    int all = 2 * (g->columns - 1);

    for (int k = 0; k < g->columns; k++) all += width_of(g, k);
    add_line(t, g, -1);
    gr_text_add(t, "  ");
    for (int i = 0; i < all; i++) gr_text_add(t, "-");
    gr_text_add(t, "\n");
    for (int64_t i = 0; i < g->rows; i++) add_line(t, g, i);
}

void gr_cell_text(char *cell, const char *s)
{
    snprintf(cell, GR_CELL, "%s", *s ? s : "-");
}

void gr_cell_count(char *cell, int64_t n)
{
    const double x = (double)n;

    if (n < 0)
        snprintf(cell, GR_CELL, "-");
    else if (n < 1000)
        snprintf(cell, GR_CELL, "%" PRId64, n);
    else if (x < 999.5e3)
        snprintf(cell, GR_CELL, "%.3g k", x / 1e3);
    else if (x < 999.5e6)
        snprintf(cell, GR_CELL, "%.3g M", x / 1e6);
    else
        snprintf(cell, GR_CELL, "%.4g G", x / 1e9);
}

void gr_cell_number(char *cell, const char *format, double x)
{
    if (isnan(x))
        snprintf(cell, GR_CELL, "-");
    else
        snprintf(cell, GR_CELL, format, x);
}
