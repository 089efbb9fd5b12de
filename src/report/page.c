#include "report/page.h"
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { COLUMNS = 7, CELL = GR_MAX_NAME };

typedef char cells[COLUMNS][CELL];

static const char *const heading[COLUMNS] = {"model",      "perplexity", "of teacher's", "KL, nats",
                                             "trained on", "seconds",    "nats/M"};

/* 12 800 -> "12.8 k"; three digits say enough in a table. */
static void put_count(char cell[CELL], int64_t n)
{
    const double x = (double)n;

    if (n < 0)
        snprintf(cell, CELL, "-");
    else if (n < 1000)
        snprintf(cell, CELL, "%" PRId64, n);
    else if (x < 999.5e3)
        snprintf(cell, CELL, "%.3g k", x / 1e3);
    else if (x < 999.5e6)
        snprintf(cell, CELL, "%.3g M", x / 1e6);
    else
        snprintf(cell, CELL, "%.4g G", x / 1e9);
}

static void put_number(char cell[CELL], const char *format, double x)
{
    if (isnan(x))
        snprintf(cell, CELL, "-");
    else
        snprintf(cell, CELL, format, x);
}

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

static void put_row(cells c, const gr_facts *f, const gr_judged *m)
{
    snprintf(c[0], CELL, "%s", m->name);
    put_number(c[1], m->perplexity < 1e4 ? "%.2f" : "%.3g", m->perplexity);
    put_number(c[2], m->perplexity < 1e4 * f->model[0].perplexity ? "%.3f" : "%.3g",
               m->perplexity / f->model[0].perplexity);
    put_number(c[3], "%.4f", m->kl);
    put_count(c[4], gr_facts_tokens(f, m->stage));
    put_number(c[5], "%.1f", gr_facts_seconds(f, m->stage));
    put_number(c[6], "%.3g", gain(f, m));
}

static double total_seconds(const gr_facts *f)
{
    double sum = 0;

    for (int64_t i = 0; i < f->n_spent; i++) sum += f->spent[i].seconds;
    return sum;
}

/* Mean loss over the last twentieth of a run: one step alone is noise. */
static double final_loss(const gr_curve *c)
{
    const int64_t last = c->n < 20 ? 1 : c->n / 20;

    return gr_curve_mean(c->loss + c->n - last, last, 1);
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
    for (int64_t i = 0; i < f->n_curve; i++) add_member(t, f->curve[i].stage, final_loss(&f->curve[i]));
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

static void add_models(gr_text *t, const gr_facts *f)
{
    cells c;

    for (int i = 0; i < COLUMNS; i++) gr_text_add(t, "| %s ", heading[i]);
    gr_text_add(t, "|\n|---|---:|---:|---:|---:|---:|---:|\n");
    for (int64_t i = 0; i < f->n_model; i++) {
        if (f->model[i].context) continue;
        put_row(c, f, &f->model[i]);
        for (int k = 0; k < COLUMNS; k++) gr_text_add(t, "| %s ", c[k]);
        gr_text_add(t, "|\n");
    }
    gr_text_add(
        t,
        "\nPerplexity and KL to the teacher over %" PRId64 " held-out tokens, which no stage trained on. Tokens and\n"
        "seconds are those of the stage that made the model; nats/M: what they bought, the fall of log-perplexity\n"
        "since the model above per million tokens.\n",
        f->model[0].tokens);
}

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

static void add_training(gr_text *t, const gr_facts *f)
{
    for (int64_t i = 0; i < f->n_curve; i++) {
        const gr_curve *c = &f->curve[i];
        cells           n;

        put_count(n[0], (int64_t)c->tokens[c->n - 1]);
        gr_text_add(t, "\n## %s\n\n%.0f steps, %s tokens, loss %.4g at the end.\n\n![loss of %s](loss_%s.svg)\n",
                    c->stage, c->step[c->n - 1], n[0], final_loss(c), c->stage, c->stage);
        if (!c->n_layer) continue;
        gr_text_add(
            t, "\n![error by layer](%s_layers.svg)\n\n| layer | error at the start | at the end |\n|---:|---:|---:|\n",
            c->stage);
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
    add_models(t, f);
    add_longer(t, f);
    add_training(t, f);
    gr_text_add(t, "\n## Seconds\n\n| stage | seconds |\n|---|---:|\n");
    for (int64_t i = 0; i < f->n_spent; i++) gr_text_add(t, "| %s | %.1f |\n", f->spent[i].stage, f->spent[i].seconds);
    gr_text_add(t, "| all | %.1f |\n\n## Configuration of this report\n\n```yaml\n%s```\n", total_seconds(f),
                run->config_text);
}

/* ---- terminal ---- */

static void add_line(gr_text *t, cells c, const int width[COLUMNS])
{
    for (int k = 0; k < COLUMNS; k++) gr_text_add(t, k ? "  %*s" : "  %-*s", width[k], c[k]);
    gr_text_add(t, "\n");
}

void gr_page_terminal(gr_text *t, const gr_facts *f, const gr_run *run)
{
    int   width[COLUMNS], all = 2 * (COLUMNS - 1);
    cells c;

    for (int k = 0; k < COLUMNS; k++) {
        width[k] = (int)strlen(heading[k]);
        for (int64_t i = 0; i < f->n_model; i++) {
            put_row(c, f, &f->model[i]);
            if ((int)strlen(c[k]) > width[k]) width[k] = (int)strlen(c[k]);
        }
        all += width[k];
    }
    gr_text_add(t, "\n  %s: held-out perplexity\n  ", run->cfg->report.title);
    add_hardware(t, f);
    gr_text_add(t, "\n\n");
    for (int k = 0; k < COLUMNS; k++) snprintf(c[k], CELL, "%s", heading[k]);
    add_line(t, c, width);
    gr_text_add(t, "  ");
    for (int i = 0; i < all; i++) gr_text_add(t, "-");
    gr_text_add(t, "\n");
    for (int64_t i = 0; i < f->n_model; i++) {
        if (f->model[i].context) continue;
        put_row(c, f, &f->model[i]);
        add_line(t, c, width);
    }
    gr_text_add(t, "\n");
    for (int64_t i = 0; i < f->n_model; i++)
        if (f->model[i].context)
            gr_text_add(t, "  at context %" PRId64 ": %s %.2f\n", f->model[i].context, f->model[i].name,
                        f->model[i].perplexity);
    gr_text_add(t, "  all stages together: %.1f s\n", total_seconds(f));
}
