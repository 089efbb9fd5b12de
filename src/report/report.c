#include "report/report.h"
#include "comm/comm.h"
#include "report/facts.h"
#include "report/page.h"
#include "report/plot.h"
#include "report/ranking.h"
#include "report/ranking_page.h"
#include "util/fs.h"
#include "util/mem.h"
#include "util/text.h"
#include <stdio.h>

static gr_status draw_all(const gr_facts *f, const char *dir)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];

    for (int64_t i = 0; i < f->n_curve; i++) {
        const gr_curve *c = &f->curve[i];

        GR_TRY(gr_path(path, "%s/loss_%s.svg", dir, c->stage));
        GR_TRY(gr_plot_loss(path, c));
        if (!c->n_layer) continue;
        GR_TRY(gr_path(path, "%s/%s_layers.svg", dir, c->stage));
        GR_TRY(gr_plot_layers(path, c));
    }
out:
    return st;
}

static gr_status save(const char *dir, const char *name, const gr_text *t)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];

    GR_TRY(t->st);
    GR_TRY(gr_path(path, "%s/%s", dir, name));
    GR_TRY(gr_write_file(path, t->s, t->n));
out:
    return st;
}

/* The plots are there already; the table is for stdout. */
static gr_status publish(const char *dir, const gr_text *json, const gr_text *markdown, const gr_text *table)
{
    gr_status st = GR_OK;

    GR_TRY(save(dir, "report.md", markdown));
    GR_TRY(save(dir, "report.json", json));
    GR_TRY(table->st);
    GR_CHECK(fputs(table->s, stdout) >= 0, GR_ERR_IO, "stdout cannot be written");
out:
    return st;
}

/* ---- a pipeline ---- */

static gr_status write_pipeline(const gr_run *run)
{
    gr_status   st = GR_OK;
    const char *dir = run->cfg->run.out;
    gr_facts    f = {0};
    gr_text     json = {0}, markdown = {0}, table = {0};

    GR_TRY(gr_facts_read(&f, &run->cfg->report));
    if (f.ranks == 0) f.ranks = gr_comm_size(run->comm);
    GR_TRY(gr_mkdirs(dir));
    if (run->cfg->report.plots) GR_TRY(draw_all(&f, dir));
    gr_page_json(&json, &f, run);
    gr_page_markdown(&markdown, &f, run);
    gr_page_terminal(&table, &f, run);
    GR_TRY(publish(dir, &json, &markdown, &table));
out:
    gr_text_close(&table);
    gr_text_close(&markdown);
    gr_text_close(&json);
    gr_facts_close(&f);
    return st;
}

/* ---- a sweep ---- */

/* All members that have a curve of the stage. */
static gr_status draw_stage(const gr_ranking *r, int stage, const char *dir)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX], title[2 * GR_MAX_NAME];
    gr_line  *line = NULL;
    int64_t   n = 0;

    GR_TRY(gr_alloc(&line, (uint64_t)r->n_entrant, sizeof *line, "curves"));
    for (int64_t c = 0; c < r->n_candidate; c++) /* best first, also in the key */
        for (const gr_entrant *e = r->entrant; e < r->entrant + r->n_entrant; e++)
            if (e->candidate == c && e->curve[stage].n)
                line[n++] = (gr_line){&e->curve[stage], c, r->candidate[c].name};
    if (n == 0) goto out;
    GR_TRY(gr_path(path, "%s/loss_%s.svg", dir, r->stage[stage]));
    snprintf(title, sizeof title, "%.60s: training loss of every member", r->stage[stage]);
    GR_TRY(gr_plot_lines(path, title, line, n));
out:
    gr_free(&line);
    return st;
}

static gr_status write_sweep(const gr_run *run)
{
    gr_status            st = GR_OK;
    const gr_cfg_report *cfg = &run->cfg->report;
    const char          *dir = run->cfg->run.out;
    gr_ranking           r = {0};
    gr_text              json = {0}, markdown = {0}, table = {0};

    GR_CHECK(cfg->stages.n == 0 && cfg->models.n == 0, GR_ERR_CONFIG,
             "report.sweep takes the place of report.stages and report.models");
    GR_TRY(gr_ranking_read(&r, cfg->sweep));
    GR_TRY(gr_mkdirs(dir));
    for (int s = 0; cfg->plots && s < r.n_stage; s++) GR_TRY(draw_stage(&r, s, dir));
    GR_TRY(gr_ranking_json(&json, &r, run));
    gr_ranking_markdown(&markdown, &r, run);
    gr_ranking_terminal(&table, &r, run);
    GR_TRY(publish(dir, &json, &markdown, &table));
    GR_CHECK(r.n_begun > 0, GR_ERR_INPUT, "%s: no member has begun", cfg->sweep);
out:
    gr_text_close(&table);
    gr_text_close(&markdown);
    gr_text_close(&json);
    gr_ranking_close(&r);
    return st;
}

gr_status gr_report_write(const gr_run *run)
{
    gr_status st = GR_OK;

    if (gr_comm_rank(run->comm) == 0) st = *run->cfg->report.sweep ? write_sweep(run) : write_pipeline(run);
    return gr_agree(run->comm, st);
}
