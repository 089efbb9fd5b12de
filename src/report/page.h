/** @file page.h  The facts as report.json, as report.md, and as a table on a terminal.  [local]
 *
 * Each appends to *t, whose t->st tells whether memory sufficed.
 */
#ifndef GR_REPORT_PAGE_H
#define GR_REPORT_PAGE_H
#include "report/facts.h"
#include "run/run.h"
#include "util/text.h"

GR_C_BEGIN

/** Members: docs/demo.md. */
void gr_page_json(gr_text *t, const gr_facts *f, const gr_run *run);

/** Refers to the plots as loss_STAGE.svg and STAGE_layers.svg beside it. */
void gr_page_markdown(gr_text *t, const gr_facts *f, const gr_run *run);

void gr_page_terminal(gr_text *t, const gr_facts *f, const gr_run *run);

GR_C_END
#endif
