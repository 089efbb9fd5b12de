#include "report/page.h"
#include "report/grid.h"
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *const heading[] = {"model",      "perplexity", "of teacher's", "KL, nats",
                                      "trained on", "seconds",    "nats/M"};

/* By how much log-perplexity fell per million tokens of the stage that made the model, since the model before it in the
 * main table; NaN where either is unknown. */
static double gain(const gr_facts *f, const gr_judged *m)
{
    const int64_t    tokens = gr_facts_tokens(f, m->stage);
    const gr_judged *before = m;

    if (m->context || tokens <= 0) return NAN;
    do {
        if (before == f->model) return NAN;
        before--;
    } while (before->context);
    return log(before->perplexity / m->perplexity) / (1e-6 * (double)tokens);
}

static void put_row(const gr_grid *g, int64_t row, const gr_facts *f, const gr_judged *m)
{
    gr_cell_text(gr_grid_at(g, row, 0), m->name);
    gr_cell_number(gr_grid_at(g, row, 1), m->perplexity < 1e4 ? "%.2f" : "%.3g", m->perplexity);
    gr_cell_number(gr_grid_at(g, row, 2), m->perplexity < 1e4 * f->model[0].perplexity ? "%.3f" : "%.3g",
                   m->perplexity / f->model[0].perplexity);
    gr_cell_number(gr_grid_at(g, row, 3), "%.4f", m->kl);
    gr_cell_count(gr_grid_at(g, row, 4), gr_facts_tokens(f, m->stage));
    gr_cell_number(gr_grid_at(g, row, 5), "%.1f", gr_facts_seconds(f, m->stage));
    gr_cell_number(gr_grid_at(g, row, 6), "%.3g", gain(f, m));
}

/* The main table; those at other context lengths are not in it. */
static void add_models(gr_text *t, const gr_facts *f, void (*add)(gr_text *, const gr_grid *))
{
    gr_grid g = {0};
    int64_t rows = 0, row = 0;

    for (int64_t i = 0; i < f->n_model; i++) rows += !f->model[i].context;
    t->st = t->st == GR_OK ? gr_grid_open(&g, heading, "lrrrrrr", rows) : t->st;
    if (t->st != GR_OK) goto out;
    for (int64_t i = 0; i < f->n_model; i++)
        if (!f->model[i].context) put_row(&g, row++, f, &f->model[i]);
    add(t, &g);
out:
    gr_grid_close(&g);
}

static double total_seconds(const gr_facts *f)
{
    double sum = 0;

    for (int64_t i = 0; i < f->n_spent; i++) sum += f->spent[i].seconds;
    return sum;
}

static double layer_mean(const gr_curve *c, int64_t layer, bool at_end)
{
    const int64_t some = c->n < 20 ? 1 : c->n / 20, first = at_end ? c->n - some : 0;

    return gr_curve_mean(c->layer + first * c->n_layer + layer, some, c->n_layer);
}

static void add_hardware(gr_text *t, const gr_facts *f)
{
    gr_text_add(t, "%s, %d core%s, %" PRId64 " rank%s", f->host.cpu, f->host.cores, f->host.cores == 1 ? "" : "s",
                f->ranks, f->ranks == 1 ? "" : "s");
}

/* ---- JSON ---- */

/* An object of numbers; a NaN is left out. */
static void open_object(gr_text *t, const char *key)
{
    gr_text_add(t, "  ");
    gr_text_quote(t, key);
    gr_text_add(t, ": {");
}

static void add_member(gr_text *t, const char *key, double v)
{
    if (!isfinite(v)) return;
    if (t->n > 0 && t->s[t->n - 1] != '{') gr_text_add(t, ", ");
    gr_text_quote(t, key);
    gr_text_add(t, ": %.9g", v);
}

static void close_object(gr_text *t)
{
    gr_text_add(t, "},\n");
}

/* {"512": {"distilled": 20.1, "extended": 19.2}}: in order of first appearance */
static void add_other_contexts(gr_text *t, const gr_facts *f)
{
    const char *between = "";

    open_object(t, "perplexity_at");
    for (int64_t i = 0; i < f->n_model; i++) {
        const int64_t context = f->model[i].context;
        bool new = context > 0;

        for (int64_t j = 0; j < i; j++) new = new && f->model[j].context != context;
        if (!new) continue;
        gr_text_add(t, "%s\"%" PRId64 "\": {", between, context);
        for (int64_t j = i; j < f->n_model; j++)
            if (f->model[j].context == context) add_member(t, f->model[j].name, f->model[j].perplexity);
        gr_text_add(t, "}");
        between = ", ";
    }
    close_object(t);
}

static void add_layer_errors(gr_text *t, const gr_facts *f)
{
    const char *between = "";

    open_object(t, "layer_error");
    for (int64_t i = 0; i < f->n_curve; i++) {
        const gr_curve *c = &f->curve[i];

        if (!c->n_layer) continue;
        gr_text_add(t, "%s\"%s\": {", between, c->stage);
        for (int64_t l = 0; l < c->n_layer; l++) {
            gr_text_add(t, "%s\"%" PRId64 "\": {", l ? ", " : "", c->layer_id[l]);
            add_member(t, "first", layer_mean(c, l, false));
            add_member(t, "last", layer_mean(c, l, true));
            gr_text_add(t, "}");
        }
        gr_text_add(t, "}");
        between = ", ";
    }
    close_object(t);
}

static void add_string(gr_text *t, const char *key, const char *value, const char *end)
{
    gr_text_add(t, "  ");
    gr_text_quote(t, key);
    gr_text_add(t, ": ");
    gr_text_quote(t, value);
    gr_text_add(t, "%s", end);
}

void gr_page_json(gr_text *t, const gr_facts *f, const gr_run *run)
{
    const gr_judged *m = f->model, *end = f->model + f->n_model, *first = m;

    gr_text_add(t, "{\n");
    add_string(t, "title", run->cfg->report.title, ",\n");
    open_object(t, "perplexity");
    for (m = first; m < end; m++)
        if (!m->context) add_member(t, m->name, m->perplexity);
    close_object(t);
    open_object(t, "ratio");
    for (m = first; m < end; m++)
        if (!m->context) add_member(t, m->name, m->perplexity / first->perplexity);
    close_object(t);
    open_object(t, "kl");
    for (m = first; m < end; m++)
        if (!m->context) add_member(t, m->name, m->kl);
    close_object(t);
    open_object(t, "gain_per_million");
    for (m = first; m < end; m++) add_member(t, m->name, gain(f, m));
    close_object(t);
    add_other_contexts(t, f);
    open_object(t, "seconds");
    for (int64_t i = 0; i < f->n_spent; i++) add_member(t, f->spent[i].stage, f->spent[i].seconds);
    close_object(t);
    gr_text_add(t, "  \"seconds_total\": %.9g,\n", total_seconds(f));
    open_object(t, "tokens");
    for (int64_t i = 0; i < f->n_curve; i++) add_member(t, f->curve[i].stage, f->curve[i].tokens[f->curve[i].n - 1]);
    close_object(t);
    open_object(t, "loss");
    for (int64_t i = 0; i < f->n_curve; i++) add_member(t, f->curve[i].stage, gr_curve_final(&f->curve[i]));
    close_object(t);
    add_layer_errors(t, f);
    gr_text_add(t, "  \"scored_tokens\": %" PRId64 ",\n", first->tokens);
    gr_text_add(t, "  \"hardware\": {\"cpu\": ");
    gr_text_quote(t, f->host.cpu);
    gr_text_add(t, ", \"cores\": %d, \"ranks\": %" PRId64 "},\n", f->host.cores, f->ranks);
    add_string(t, "date", gr_utc(), ",\n");
    add_string(t, "version", gr_version(), ",\n");
    add_string(t, "commit", gr_commit(), ",\n");
    add_string(t, "config", run->config_text, "\n}\n");
}

/* ---- Markdown ---- */

static void add_longer(gr_text *t, const gr_facts *f)
{
    bool any = false;

    for (int64_t i = 0; i < f->n_model; i++) {
        const gr_judged *m = &f->model[i];

        if (!m->context) continue;
        if (!any)
            gr_text_add(t, "\n## At other context lengths\n\n| model | context | perplexity |\n|---|---:|---:|\n");
        gr_text_add(t, "| %s | %" PRId64 " | %.2f |\n", m->name, m->context, m->perplexity);
        any = true;
    }
}

static void add_training(gr_text *t, const gr_facts *f, bool plots)
{
    for (int64_t i = 0; i < f->n_curve; i++) {
        const gr_curve *c = &f->curve[i];
        char            tokens[GR_CELL];

        gr_cell_count(tokens, (int64_t)c->tokens[c->n - 1]);
        gr_text_add(t, "\n## %s\n\n%.0f steps, %s tokens, loss %.4g at the end.\n", c->stage, c->step[c->n - 1], tokens,
                    gr_curve_final(c));
        if (plots) gr_text_add(t, "\n![loss of %s](loss_%s.svg)\n", c->stage, c->stage);
        if (!c->n_layer) continue;
        if (plots) gr_text_add(t, "\n![error by layer](%s_layers.svg)\n", c->stage);
        gr_text_add(t, "\n| layer | error at the start | at the end |\n|---:|---:|---:|\n");
        for (int64_t l = 0; l < c->n_layer; l++)
            gr_text_add(t, "| %" PRId64 " | %.4g | %.4g |\n", c->layer_id[l], layer_mean(c, l, false),
                        layer_mean(c, l, true));
    }
}

void gr_page_markdown(gr_text *t, const gr_facts *f, const gr_run *run)
{
    gr_text_add(t, "# %s\n\n", run->cfg->report.title);
    add_hardware(t, f);
    gr_text_add(t, ". Graft %s, commit %s, %s.\n\n", gr_version(), gr_commit(), gr_utc());
    add_models(t, f, gr_grid_markdown);
    gr_text_add(
        t,
        "\nPerplexity and KL to the teacher over %" PRId64 " held-out tokens, which no stage trained on. Tokens and\n"
        "seconds are those of the stage that made the model; nats/M: what they bought, the fall of log-perplexity\n"
        "since the model above per million tokens.\n",
        f->model[0].tokens);
    add_longer(t, f);
    add_training(t, f, run->cfg->report.plots);
    gr_text_add(t, "\n## Seconds\n\n| stage | seconds |\n|---|---:|\n");
    for (int64_t i = 0; i < f->n_spent; i++) gr_text_add(t, "| %s | %.1f |\n", f->spent[i].stage, f->spent[i].seconds);
    gr_text_add(t, "| all | %.1f |\n\n## Configuration of this report\n\n```yaml\n%s```\n", total_seconds(f),
                run->config_text);
}

/* ---- terminal ---- */

void gr_page_terminal(gr_text *t, const gr_facts *f, const gr_run *run)
{
    gr_text_add(t, "\n  %s: held-out perplexity\n  ", run->cfg->report.title);
    add_hardware(t, f);
    gr_text_add(t, "\n\n");
    add_models(t, f, gr_grid_plain);
    gr_text_add(t, "\n");
    for (int64_t i = 0; i < f->n_model; i++)
        if (f->model[i].context)
            gr_text_add(t, "  at context %" PRId64 ": %s %.2f\n", f->model[i].context, f->model[i].name,
                        f->model[i].perplexity);
    gr_text_add(t, "  all stages together: %.1f s\n", total_seconds(f));
}
