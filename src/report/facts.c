#include "report/facts.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/mem.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_BYTES (UINT64_C(64) << 20)

/* Names become members of JSON objects and parts of file names. */
static gr_status copy_name(char dst[GR_MAX_NAME], const char *s, size_t n, const char *entry)
{
    static const char fine[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    gr_status         st = GR_OK;

    GR_CHECK(n > 0 && n < GR_MAX_NAME && strspn(s, fine) >= n, GR_ERR_CONFIG,
             "report: '%s': a name is 1 to %d of letters, digits, '_', '-', '.'", entry, GR_MAX_NAME - 1);
    memcpy(dst, s, n);
    dst[n] = 0;
out:
    return st;
}

/* "stage=directory" */
static gr_status read_stage(gr_facts *f, const char *entry)
{
    gr_status   st = GR_OK;
    const char *equals = strchr(entry, '=');
    gr_curve   *c = &f->curve[f->n_curve];

    GR_CHECK(equals, GR_ERR_CONFIG, "report.stages: '%s' is not 'stage=directory'", entry);
    f->n_curve++;
    GR_TRY(gr_curve_read(c, equals + 1));
    GR_TRY(copy_name(c->stage, entry, (size_t)(equals - entry), entry));
    for (const gr_curve *other = f->curve; other < c; other++)
        GR_CHECK(strcmp(other->stage, c->stage) != 0, GR_ERR_CONFIG, "report.stages: '%s' twice", c->stage);
out:
    return st;
}

/* "model[@context][:stage]" of length n */
static gr_status read_label(gr_judged *m, const char *entry, size_t n)
{
    gr_status   st = GR_OK;
    const char *colon = memchr(entry, ':', n), *at = memchr(entry, '@', n), *end = colon ? colon : entry + n;

    if (colon) GR_TRY(copy_name(m->stage, colon + 1, (size_t)(entry + n - colon) - 1, entry));
    if (at) {
        char *stop = NULL;
        m->context = strtoll(at + 1, &stop, 10);
        GR_CHECK(stop == end && m->context > 0, GR_ERR_CONFIG, "report.models: '%s': a context length must follow '@'",
                 entry);
        end = at;
    }
    GR_TRY(copy_name(m->name, entry, (size_t)(end - entry), entry));
out:
    return st;
}

gr_status gr_judged_read(gr_judged *m, const char *dir)
{
    gr_status     st = GR_OK;
    char          path[GR_PATH_MAX];
    json_t       *tree = NULL;
    const json_t *kl, *seconds;

    GR_TRY(gr_path(path, "%s/results.json", dir));
    GR_TRY(gr_json_load(path, &tree));
    GR_CHECK(json_is_object(tree), GR_ERR_INPUT, "%s: not a JSON object", path);
    GR_TRY(gr_json_get_num(tree, path, "perplexity", &m->perplexity));
    GR_TRY(gr_json_get_int(tree, path, "tokens", 0, INT64_MAX, &m->tokens));
    GR_CHECK(m->perplexity >= 1, GR_ERR_INPUT, "%s: perplexity is %g; it cannot be below 1", path, m->perplexity);
    kl = json_object_get(tree, "kl");
    m->kl = json_is_number(kl) ? json_number_value(kl) : NAN;
    seconds = json_object_get(tree, "seconds");
    m->seconds = json_is_number(seconds) ? json_number_value(seconds) : 0;
out:
    json_decref(tree);
    return st;
}

static gr_status read_model(gr_facts *f, const char *entry)
{
    gr_status   st = GR_OK;
    const char *equals = strchr(entry, '=');
    gr_judged  *m = &f->model[f->n_model];

    GR_CHECK(equals, GR_ERR_CONFIG, "report.models: '%s' is not 'model[@context][:stage]=directory'", entry);
    GR_TRY(read_label(m, entry, (size_t)(equals - entry)));
    for (const gr_judged *other = f->model; other < m; other++)
        GR_CHECK(strcmp(other->name, m->name) != 0 || other->context != m->context, GR_ERR_CONFIG,
                 "report.models: '%s' twice", m->name);
    GR_TRY(gr_judged_read(m, equals + 1));
    f->n_model++;
out:
    return st;
}

static gr_spent *find_spent(const gr_facts *f, const char *stage)
{
    for (int64_t i = 0; i < f->n_spent; i++)
        if (strcmp(f->spent[i].stage, stage) == 0) return &f->spent[i];
    return NULL;
}

/* Lines "stage<tab>seconds[<tab>anything]"; a stage that ran in several pieces has several. */
static gr_status read_seconds(gr_facts *f, const char *path)
{
    gr_status st = GR_OK;
    char     *text = NULL;
    uint64_t  n = 0, lines = 1, line = 0;

    GR_TRY(gr_read_file(path, LIMIT_BYTES, &text, &n));
    for (uint64_t i = 0; i < n; i++) lines += text[i] == '\n';
    GR_TRY(gr_alloc(&f->spent, lines, sizeof *f->spent, "seconds by stage"));
    for (char *at = text, *end; at < text + n; at = end + 1) {
        char     *tab, *stop, name[GR_MAX_NAME];
        gr_spent *s;
        double    seconds;

        line++;
        end = memchr(at, '\n', (size_t)(text + n - at));
        GR_CHECK(end, GR_ERR_INPUT, "%s:%" PRIu64 ": torn: the last line has no end", path, line);
        *end = 0;
        tab = strchr(at, '\t');
        GR_CHECK(tab, GR_ERR_INPUT, "%s:%" PRIu64 ": not 'stage<tab>seconds'", path, line);
        seconds = strtod(tab + 1, &stop);
        GR_CHECK((*stop == '\t' || stop == end) && stop > tab + 1 && seconds >= 0 && isfinite(seconds), GR_ERR_INPUT,
                 "%s:%" PRIu64 ": '%s' is no number of seconds", path, line, tab + 1);
        GR_TRY(copy_name(name, at, (size_t)(tab - at), at));
        s = find_spent(f, name);
        if (!s) {
            s = &f->spent[f->n_spent++];
            memcpy(s->stage, name, sizeof name);
        }
        s->seconds += seconds;
    }
out:
    gr_free(&text);
    return st;
}

static gr_status seconds_of_curves(gr_facts *f)
{
    gr_status st = GR_OK;

    GR_TRY(gr_alloc(&f->spent, (uint64_t)f->n_curve, sizeof *f->spent, "seconds by stage"));
    for (int64_t i = 0; i < f->n_curve; i++) {
        memcpy(f->spent[i].stage, f->curve[i].stage, GR_MAX_NAME);
        f->spent[i].seconds = f->curve[i].seconds;
    }
    f->n_spent = f->n_curve;
out:
    return st;
}

gr_status gr_facts_read(gr_facts *f, const gr_cfg_report *cfg)
{
    gr_status st = GR_OK;

    f->host = gr_host_read();
    f->ranks = cfg->ranks;
    GR_CHECK(cfg->stages.n > 0 && cfg->models.n > 0, GR_ERR_CONFIG,
             "report.stages and report.models must be given, or report.sweep");
    GR_TRY(gr_alloc(&f->curve, (uint64_t)cfg->stages.n, sizeof *f->curve, "training runs"));
    GR_TRY(gr_alloc(&f->model, (uint64_t)cfg->models.n, sizeof *f->model, "evaluated models"));
    for (int64_t i = 0; i < cfg->stages.n; i++) GR_TRY(read_stage(f, cfg->stages.v[i]));
    for (int64_t i = 0; i < cfg->models.n; i++) GR_TRY(read_model(f, cfg->models.v[i]));
    GR_TRY(cfg->seconds[0] ? read_seconds(f, cfg->seconds) : seconds_of_curves(f));
    GR_CHECK(f->n_model > 0 && f->model[0].context == 0, GR_ERR_CONFIG,
             "report.models: the first one is the reference: no '@'");
out:
    return st;
}

void gr_facts_close(gr_facts *f)
{
    for (int64_t i = 0; i < f->n_curve; i++) gr_curve_close(&f->curve[i]);
    gr_free(&f->curve);
    gr_free(&f->model);
    gr_free(&f->spent);
    *f = (gr_facts){0};
}

double gr_facts_seconds(const gr_facts *f, const char *stage)
{
    const gr_spent *s = find_spent(f, stage);

    return s ? s->seconds : NAN;
}

int64_t gr_facts_tokens(const gr_facts *f, const char *stage)
{
    for (int64_t i = 0; i < f->n_curve; i++)
        if (strcmp(f->curve[i].stage, stage) == 0) return (int64_t)f->curve[i].tokens[f->curve[i].n - 1];
    return -1;
}
