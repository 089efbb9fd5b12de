#include "report/report.h"
#include "comm/comm.h"
#include "report/facts.h"
#include "report/page.h"
#include "report/plot.h"
#include "util/fs.h"
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

static gr_status write_here(const gr_run *run)
{
    gr_status   st = GR_OK;
    const char *dir = run->cfg->run.out;
    gr_facts    f = {0};
    gr_text     json = {0}, markdown = {0}, table = {0};

    GR_TRY(gr_facts_read(&f, &run->cfg->report));
    if (f.ranks == 0) f.ranks = gr_comm_size(run->comm);
    GR_TRY(gr_mkdirs(dir));
    GR_TRY(draw_all(&f, dir));
    gr_page_json(&json, &f, run);
    gr_page_markdown(&markdown, &f, run);
    gr_page_terminal(&table, &f, run);
    GR_TRY(save(dir, "report.md", &markdown));
    GR_TRY(save(dir, "report.json", &json));
    GR_TRY(table.st);
    GR_CHECK(fputs(table.s, stdout) >= 0, GR_ERR_IO, "stdout cannot be written");
out:
    gr_text_close(&table);
    gr_text_close(&markdown);
    gr_text_close(&json);
    gr_facts_close(&f);
    return st;
}

gr_status gr_report_write(const gr_run *run)
{
    gr_status st = GR_OK;

    if (gr_comm_rank(run->comm) == 0) st = write_here(run);
    return gr_agree(run->comm, st);
}
