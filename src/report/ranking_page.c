#include "report/ranking_page.h"
#include "report/grid.h"
#include "util/json.h"
#include "util/mem.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- tables ----------------------------------------------------------------------------------------------------- */

typedef void (*adder)(gr_text *, const gr_grid *);

static void put_whole(char *cell, double x)
{
    gr_cell_count(cell, isnan(x) ? -1 : (int64_t)x);
}

/* "%.3f" would hide the spread of very good models, and blow up that of very bad ones. */
static void put_perplexity(char *cell, double x)
{
    gr_cell_number(cell, x < 1e3 ? "%.3f" : "%.4g", x);
}

static void put_candidate(const gr_grid *g, int64_t row, const gr_candidate *c)
{
    if (c->rank)
        gr_cell_count(gr_grid_at(g, row, 0), c->rank);
    else
        gr_cell_text(gr_grid_at(g, row, 0), "");
    gr_cell_text(gr_grid_at(g, row, 1), c->name);
    snprintf(gr_grid_at(g, row, 2), GR_CELL, "%" PRId64 " of %" PRId64, c->n_done, c->n);
    put_perplexity(gr_grid_at(g, row, 3), c->perplexity.mean);
    gr_cell_number(gr_grid_at(g, row, 4), "%.3g", c->perplexity.sd);
    put_perplexity(gr_grid_at(g, row, 5), c->perplexity.least);
    put_perplexity(gr_grid_at(g, row, 6), c->perplexity.most);
    gr_cell_number(gr_grid_at(g, row, 7), "%.4f", c->behind.mean);
    gr_cell_number(gr_grid_at(g, row, 8), "%.2g", c->behind.sd);
    gr_cell_number(gr_grid_at(g, row, 9), "%.4f", c->kl.mean);
    put_whole(gr_grid_at(g, row, 10), c->tokens.mean);
    gr_cell_number(gr_grid_at(g, row, 11), "%.1f", c->seconds.mean);
}

static void add_candidates(gr_text *t, const gr_ranking *r, adder add)
{
    static const char *const heading[] = {"rank", "candidate",   "seeds", "perplexity", "sd",         "min",
                                          "max",  "behind best", "sd",    "KL, nats",   "trained on", "seconds"};
    gr_grid                  g = {0};

    if (t->st == GR_OK) t->st = gr_grid_open(&g, heading, "rlrrrrrrrrrr", r->n_candidate);
    if (t->st != GR_OK) return;
    for (int64_t i = 0; i < r->n_candidate; i++) put_candidate(&g, i, &r->candidate[i]);
    add(t, &g);
    gr_grid_close(&g);
}

static void put_entrant(const gr_grid *g, int64_t row, const gr_entrant *e)
{
    gr_cell_text(gr_grid_at(g, row, 0), e->name);
    gr_cell_text(gr_grid_at(g, row, 1), e->state);
    put_perplexity(gr_grid_at(g, row, 2), e->perplexity);
    gr_cell_number(gr_grid_at(g, row, 3), "%.4f", e->kl);
    put_whole(gr_grid_at(g, row, 4), e->tokens);
    gr_cell_number(gr_grid_at(g, row, 5), "%.1f", e->seconds);
}

/* Members of the best candidate first. */
static void add_entrants(gr_text *t, const gr_ranking *r, adder add)
{
    static const char *const heading[] = {"member", "state", "perplexity", "KL, nats", "trained on", "seconds"};
    gr_grid                  g = {0};
    int64_t                  row = 0;

    if (t->st == GR_OK) t->st = gr_grid_open(&g, heading, "llrrrr", r->n_entrant);
    if (t->st != GR_OK) return;
    for (int64_t c = 0; c < r->n_candidate; c++)
        for (int64_t i = 0; i < r->n_entrant; i++)
            if (r->entrant[i].candidate == c) put_entrant(&g, row++, &r->entrant[i]);
    add(t, &g);
    gr_grid_close(&g);
}

static void add_causes(gr_text *t, const gr_ranking *r)
{
    for (int64_t i = 0; i < r->n_entrant; i++)
        if (*r->entrant[i].cause) gr_text_add(t, "\n%s: %s\n", r->entrant[i].name, r->entrant[i].cause);
}

/* ---- Markdown --------------------------------------------------------------------------------------------------- */

static void add_plots(gr_text *t, const gr_ranking *r)
{
    for (int s = 0; s < r->n_stage; s++) {
        int64_t n = 0;

        for (int64_t i = 0; i < r->n_entrant; i++) n += r->entrant[i].curve[s].n > 0;
        if (n) gr_text_add(t, "\n![loss of %s](loss_%s.svg)\n", r->stage[s], r->stage[s]);
    }
}

void gr_ranking_markdown(gr_text *t, const gr_ranking *r, const gr_run *run)
{
    gr_text_add(t, "# %s\n\n%" PRId64 " of %" PRId64 " members of `%s` are done. Graft %s, commit %s, %s.\n\n",
                run->cfg->report.title, r->n_done, r->n_entrant, run->cfg->report.sweep, gr_version(), gr_commit(),
                gr_utc());
    add_candidates(t, r, gr_grid_markdown);
    gr_text_add(t,
                "\nRanked by held-out perplexity, the mean over the seeds that are done, with their sample standard\n"
                "deviation, least and greatest. Behind best: log-perplexity above that of the best candidate, in\n"
                "nats, from members with the same seed; a difference of the size of its own deviation says nothing.\n"
                "Trained on: tokens of all stages. Seconds: of their steps, and of evaluation.\n");
    if (run->cfg->report.plots) add_plots(t, r);
    gr_text_add(t, "\n## Members\n\n");
    add_entrants(t, r, gr_grid_markdown);
    add_causes(t, r);
    gr_text_add(t, "\n## Keys\n\n```\n");
    for (int64_t i = 0; i < r->n_entrant; i++) gr_text_add(t, "%s\t%s\n", r->entrant[i].name, r->entrant[i].keys);
    gr_text_add(t, "```\n\n## Configuration of this report\n\n```yaml\n%s```\n", run->config_text);
}

/* ---- terminal --------------------------------------------------------------------------------------------------- */

void gr_ranking_terminal(gr_text *t, const gr_ranking *r, const gr_run *run)
{
    gr_text_add(t, "\n  %s: held-out perplexity, %" PRId64 " of %" PRId64 " members done\n\n", run->cfg->report.title,
                r->n_done, r->n_entrant);
    add_candidates(t, r, gr_grid_plain);
    gr_text_add(t, "\n");
    add_entrants(t, r, gr_grid_plain);
    add_causes(t, r);
    if (r->n_done == r->n_entrant) return;
    gr_text_add(t, "\nmissing:");
    for (int64_t i = 0; i < r->n_entrant; i++)
        if (!r->entrant[i].done) gr_text_add(t, " %s", r->entrant[i].name);
    gr_text_add(t, "\n");
}

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

static void set_number(json_t *o, const char *key, double x)
{
    if (isfinite(x)) json_object_set_new(o, key, json_real(x));
}

static void set_spread(json_t *o, const char *key, const gr_spread *s)
{
    json_t *spread = json_pack("{s:I}", "n", (json_int_t)s->n);

    set_number(spread, "mean", s->mean);
    set_number(spread, "min", s->least);
    set_number(spread, "max", s->most);
    set_number(spread, "sd", s->sd);
    json_object_set_new(o, key, spread);
}

static json_t *json_of_candidate(const gr_ranking *r, int64_t i)
{
    const gr_candidate *c = &r->candidate[i];
    json_t             *o = json_object(), *members = json_array();

    json_object_set_new(o, "rank", c->rank ? json_integer(c->rank) : json_null());
    json_object_set_new(o, "name", json_string(c->name));
    json_object_set_new(o, "seeds", json_integer(c->n));
    json_object_set_new(o, "seeds_done", json_integer(c->n_done));
    for (int64_t k = 0; k < r->n_entrant; k++)
        if (r->entrant[k].candidate == i) json_array_append_new(members, json_string(r->entrant[k].name));
    json_object_set_new(o, "members", members);
    set_spread(o, "perplexity", &c->perplexity);
    set_spread(o, "kl", &c->kl);
    set_spread(o, "behind", &c->behind);
    set_spread(o, "tokens", &c->tokens);
    set_spread(o, "seconds", &c->seconds);
    return o;
}

static json_t *json_of_entrant(const gr_ranking *r, const gr_entrant *e)
{
    json_t *o = json_object(), *loss = json_object();

    json_object_set_new(o, "name", json_string(e->name));
    json_object_set_new(o, "candidate", json_string(r->candidate[e->candidate].name));
    json_object_set_new(o, "done", json_boolean(e->done));
    json_object_set_new(o, "state", json_string(e->state));
    if (*e->cause) json_object_set_new(o, "cause", json_string(e->cause));
    set_number(o, "perplexity", e->perplexity);
    set_number(o, "kl", e->kl);
    set_number(o, "behind", e->behind);
    set_number(o, "tokens", e->tokens);
    set_number(o, "seconds", e->seconds);
    for (int s = 0; s < r->n_stage; s++) set_number(loss, r->stage[s], gr_curve_final(&e->curve[s]));
    json_object_set_new(o, "loss", loss);
    json_object_set_new(o, "keys", json_string(e->keys));
    return o;
}

gr_status gr_ranking_json(gr_text *t, const gr_ranking *r, const gr_run *run)
{
    gr_status st = GR_OK;
    json_t   *o = json_object(), *stages = json_array(), *candidates = json_array(), *members = json_array(),
           *missing = json_array();
    char *text = NULL;

    for (int s = 0; s < r->n_stage; s++) json_array_append_new(stages, json_string(r->stage[s]));
    for (int64_t i = 0; i < r->n_candidate; i++) json_array_append_new(candidates, json_of_candidate(r, i));
    for (const gr_entrant *e = r->entrant; e < r->entrant + r->n_entrant; e++) {
        json_array_append_new(members, json_of_entrant(r, e));
        if (!e->done) json_array_append_new(missing, json_string(e->name));
    }
    json_object_set_new(o, "title", json_string(run->cfg->report.title));
    json_object_set_new(o, "sweep", json_string(run->cfg->report.sweep));
    json_object_set_new(o, "stages", stages);
    json_object_set_new(o, "candidates", candidates);
    json_object_set_new(o, "members", members);
    json_object_set_new(o, "missing", missing);
    json_object_set_new(o, "date", json_string(gr_utc()));
    json_object_set_new(o, "version", json_string(gr_version()));
    json_object_set_new(o, "commit", json_string(gr_commit()));
    json_object_set_new(o, "config", json_string(run->config_text));
    GR_TRY(gr_json_dump(o, 2, &text));
    gr_text_add(t, "%s\n", text);
    st = t->st;
out:
    gr_free(&text);
    json_decref(o);
    return st;
}
