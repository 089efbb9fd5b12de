#include "report/curve.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/mem.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LIMIT_BYTES (UINT64_C(4) << 30)

static double number(const json_t *record, const char *key)
{
    const json_t *v = json_object_get(record, key);

    return json_is_number(v) ? json_number_value(v) : NAN;
}

static gr_status alloc_columns(gr_curve *c, int64_t n)
{
    gr_status      st = GR_OK;
    double **const column[] = {&c->step, &c->tokens,    &c->loss,        &c->ce,
                               &c->kl,   &c->held_step, &c->held_tokens, &c->held};

    for (size_t i = 0; i < sizeof column / sizeof *column; i++)
        GR_TRY(gr_alloc(column[i], (uint64_t)n, sizeof(double), "metrics"));
out:
    return st;
}

/* The first record with layers fixes how many there are; room for all `lines` records. */
static gr_status open_layers(gr_curve *c, const json_t *record, int64_t lines)
{
    gr_status     st = GR_OK;
    const json_t *ids = json_object_get(record, "layer_ids");

    c->n_layer = (int64_t)json_array_size(json_object_get(record, "layers"));
    GR_TRY(gr_alloc(&c->layer_id, (uint64_t)c->n_layer, sizeof *c->layer_id, "layer numbers"));
    GR_TRY(gr_alloc(&c->layer, (uint64_t)(lines * c->n_layer), sizeof *c->layer, "errors by layer"));
    for (int64_t i = 0; i < c->n_layer; i++) {
        const json_t *id = json_array_get(ids, (size_t)i);
        c->layer_id[i] = json_is_integer(id) ? json_integer_value(id) : i;
    }
out:
    return st;
}

static gr_status add_layers(gr_curve *c, const json_t *record, int64_t lines, const char *where)
{
    gr_status     st = GR_OK;
    const json_t *layers = json_object_get(record, "layers");
    const int64_t n = (int64_t)json_array_size(layers); /* 0 of anything but an array */

    if (c->n == 0 && n > 0) GR_TRY(open_layers(c, record, lines));
    GR_CHECK(n == c->n_layer, GR_ERR_INPUT, "%s: %" PRId64 " layers, the first record has %" PRId64, where, n,
             c->n_layer);
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(layers, (size_t)i);
        c->layer[c->n * n + i] = json_is_number(v) ? json_number_value(v) : NAN;
    }
out:
    return st;
}

static void add_held(gr_curve *c, const json_t *record, int64_t step)
{
    const double loss = number(record, "heldout_loss"), tokens = number(record, "tokens");

    if (isnan(loss)) return;
    c->held_step[c->n_held] = (double)step;
    c->held_tokens[c->n_held] = isnan(tokens) && c->n ? c->tokens[c->n - 1] : tokens;
    c->held[c->n_held++] = loss;
}

static gr_status add_record(gr_curve *c, const json_t *record, int64_t lines, const char *where)
{
    gr_status    st = GR_OK;
    const double speed = number(record, "tokens_per_s");
    double       before = c->n ? c->tokens[c->n - 1] : 0, after;
    int64_t      step;

    GR_TRY(gr_json_get_int(record, where, "step", 0, INT64_MAX, &step));
    if (!json_object_get(record, "loss")) {
        add_held(c, record, step);
        goto out;
    }
    GR_CHECK(c->n == 0 || (double)step > c->step[c->n - 1], GR_ERR_INPUT, "%s: step %" PRId64 " after step %.0f", where,
             step, c->step[c->n - 1]);
    after = number(record, "tokens");
    if (isnan(after)) after = before;
    GR_TRY(add_layers(c, record, lines, where));
    c->step[c->n] = (double)step;
    c->tokens[c->n] = after;
    c->loss[c->n] = number(record, "loss");
    c->ce[c->n] = number(record, "ce");
    c->kl[c->n] = number(record, "kl");
    if (speed > 0 && after > before) c->seconds += (after - before) / speed;
    c->n++;
out:
    return st;
}

static int64_t count_lines(const char *text, uint64_t n)
{
    int64_t lines = 0;

    for (uint64_t i = 0; i < n; i++) lines += text[i] == '\n';
    return lines;
}

/* The n bytes of path, whole lines. */
static gr_status add_records(gr_curve *c, const char *text, uint64_t n, const char *path)
{
    gr_status st = GR_OK;
    json_t   *record = NULL;
    int64_t   lines = count_lines(text, n), line = 0;

    GR_TRY(alloc_columns(c, lines));
    for (const char *at = text, *end; at < text + n; at = end + 1) {
        char where[GR_PATH_MAX + 32];
        snprintf(where, sizeof where, "%s:%" PRId64, path, ++line);
        end = memchr(at, '\n', (size_t)(text + n - at));
        GR_TRY(gr_json_parse(at, (size_t)(end - at), where, &record));
        GR_CHECK(json_is_object(record), GR_ERR_INPUT, "%s: not a JSON object", where);
        GR_TRY(add_record(c, record, lines, where));
        json_decref(record);
        record = NULL;
    }
out:
    json_decref(record);
    return st;
}

gr_status gr_curve_read(gr_curve *c, const char *dir)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX], *text = NULL;
    uint64_t  n = 0;

    GR_TRY(gr_path(path, "%s/metrics.jsonl", dir));
    GR_TRY(gr_read_file(path, LIMIT_BYTES, &text, &n));
    GR_CHECK(n > 0, GR_ERR_INPUT, "%s: empty: did the stage run?", path);
    GR_CHECK(text[n - 1] == '\n', GR_ERR_INPUT, "%s:%" PRId64 ": torn: the last line has no end", path,
             count_lines(text, n) + 1);
    GR_TRY(add_records(c, text, n, path));
    GR_CHECK(c->n > 0, GR_ERR_INPUT, "%s: no record has a \"loss\"", path);
out:
    gr_free(&text);
    return st;
}

gr_status gr_curve_read_running(gr_curve *c, const char *dir)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX], *text = NULL;
    uint64_t  n = 0;

    GR_TRY(gr_path(path, "%s/metrics.jsonl", dir));
    GR_TRY(gr_read_file(path, LIMIT_BYTES, &text, &n));
    while (n > 0 && text[n - 1] != '\n') n--;
    GR_TRY(add_records(c, text, n, path));
out:
    gr_free(&text);
    return st;
}

void gr_curve_close(gr_curve *c)
{
    gr_free(&c->step);
    gr_free(&c->tokens);
    gr_free(&c->loss);
    gr_free(&c->ce);
    gr_free(&c->kl);
    gr_free(&c->held_step);
    gr_free(&c->held_tokens);
    gr_free(&c->held);
    gr_free(&c->layer_id);
    gr_free(&c->layer);
    *c = (gr_curve){0};
}

double gr_curve_mean(const double *y, int64_t n, int64_t stride)
{
    double  sum = 0;
    int64_t used = 0;

    for (int64_t i = 0; i < n; i++) {
        if (isnan(y[i * stride])) continue;
        sum += y[i * stride];
        used++;
    }
    return used ? sum / (double)used : NAN;
}

double gr_curve_final(const gr_curve *c)
{
    const int64_t last = c->n < 20 ? 1 : c->n / 20;

    return c->n ? gr_curve_mean(c->loss + c->n - last, last, 1) : NAN;
}
