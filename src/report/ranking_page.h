/** @file ranking_page.h  A ranking as report.json, as report.md, and as tables on a terminal.  [local]
 *
 *     {"title", "sweep", "stages": [...], "date", "version", "commit", "config",
 *      "candidates": [{"rank", "name", "seeds", "seeds_done", "members": [...],                       best first
 *                      "perplexity" | "kl" | "behind" | "tokens" | "seconds": {"n", "mean", "min", "max", "sd"}}],
 *      "members": [{"name", "candidate", "done", "state", "cause", "perplexity", "kl", "behind", "tokens", "seconds",
 *                   "loss": {STAGE: at the end}, "keys"}],
 *      "missing": [names of members that are not done]}
 *
 * What is not known is left out; "rank" is null where nothing is measured.
 */
#ifndef GR_REPORT_RANKING_PAGE_H
#define GR_REPORT_RANKING_PAGE_H
#include "report/ranking.h"
#include "run/run.h"
#include "util/text.h"

GR_C_BEGIN

gr_status gr_ranking_json(gr_text *t, const gr_ranking *r, const gr_run *run);

/** Refers to the plots as loss_STAGE.svg beside it. t->st tells whether memory sufficed. */
void gr_ranking_markdown(gr_text *t, const gr_ranking *r, const gr_run *run);

/** The last line, when members are missing, is "missing: NAME ...": slurm/sweep_report.sh looks for it. */
void gr_ranking_terminal(gr_text *t, const gr_ranking *r, const gr_run *run);

GR_C_END
#endif
