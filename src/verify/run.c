/* The directory of a run: weights.h5, config.yaml, metrics.jsonl, ckpt/, each by itself and against the others. */
#include "config/config.h"
#include "util/mem.h"
#include "verify/room.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CONFIG_BYTES = 64 << 20, LINE_BYTES = 4 << 20 };

/* ---- config.yaml ---------------------------------------------------------------------------------------- */

/* The program's name from "# graft-align: ...", with which gr_config_print begins. */
static gr_status program_of(const char *text, const char *path, char name[32])
{
    gr_status st = GR_OK;

    GR_CHECK(sscanf(text, "# graft-%31[a-z_]:", name) == 1 && gr_program_find(name), GR_ERR_INPUT,
             "%s: does not begin with the name of a program", path);
out:
    return st;
}

/* Where two texts begin to differ. */
static int first_line(const char *a, const char *b)
{
    int line = 1;

    for (; *a && *a == *b; a++, b++) line += *a == '\n';
    return line;
}

gr_status gr_check_config(gr_checker *k, const char *path, const char *made_with, int64_t *steps, int64_t *every)
{
    gr_status  st = GR_OK;
    gr_config *cfg = NULL;
    char      *text = NULL, program[32] = "", facts[64];
    uint64_t   n = 0;

    st = gr_read_file(path, CONFIG_BYTES, &text, &n);
    if (st == GR_OK) st = program_of(text, path, program);
    if (st == GR_OK) st = gr_config_from_text(&cfg, program, path, text, n);
    if (st == GR_OK && made_with && strcmp(text, made_with) != 0)
        st = gr_fail(__FILE__, __LINE__, GR_ERR_INPUT,
                     "%s: differs from line %d on from the configuration under the seal of weights.h5", path,
                     first_line(text, made_with));
    if (st == GR_OK && strstr(gr_program_find(program)->sections, "checkpoint")) {
        *steps = cfg->train.steps;
        *every = cfg->checkpoint.every;
    }
    snprintf(facts, sizeof facts, "of graft-%s%s", program, made_with ? "; as in weights.h5" : "");
    st = gr_judge(k, st, "config", path, facts);
    gr_config_close(&cfg);
    gr_free(&text);
    return st;
}

/* ---- metrics.jsonl --------------------------------------------------------------------------------------- */

typedef struct metrics {
    int64_t line, step, tokens; /* lines read; of the last record of training */
    bool    torn;
} metrics;

/* A record of training follows the one before; what is said beside it belongs to its step. */
static gr_status check_record(metrics *m, const char *line, uint64_t n)
{
    gr_status st = GR_OK;
    json_t   *v = NULL;
    int64_t   step, tokens;
    char      name[40];

    m->line++;
    snprintf(name, sizeof name, "line %" PRId64, m->line);
    GR_TRY(gr_json_parse(line, n, name, &v));
    GR_TRY(gr_json_get_int(v, name, "step", 0, INT64_MAX, &step));
    if (!json_object_get(v, "lr")) {
        GR_CHECK(step >= m->step && step <= m->step + 1, GR_ERR_INPUT, "%s: step %" PRId64 " after step %" PRId64, name,
                 step, m->step);
        goto out;
    }
    GR_CHECK(step == m->step + 1, GR_ERR_INPUT, "%s: step %" PRId64 ", expected %" PRId64, name, step, m->step + 1);
    GR_TRY(gr_json_get_int(v, name, "tokens", 0, INT64_MAX, &tokens));
    GR_CHECK(tokens >= m->tokens, GR_ERR_INPUT, "%s: %" PRId64 " tokens after %" PRId64, name, tokens, m->tokens);
    m->step = step;
    m->tokens = tokens;
out:
    json_decref(v);
    return st;
}

static gr_status read_metrics(metrics *m, const char *path)
{
    gr_status st = GR_OK;
    int       fd = -1;
    uint64_t  size = 0, at = 0, have = 0, begin, n;
    char     *data = NULL, *end;

    GR_TRY(gr_open_input(path, &fd, &size));
    GR_TRY(gr_alloc(&data, LINE_BYTES, 1, "lines"));
    while (at < size) {
        n = size - at < LINE_BYTES - have ? size - at : LINE_BYTES - have;
        GR_CHECK(n > 0, GR_ERR_INPUT, "%s: line %" PRId64 " is longer than %d bytes", path, m->line + 1, LINE_BYTES);
        GR_TRY(gr_pread_all(fd, data + have, n, at, path));
        at += n;
        have += n;
        for (begin = 0; (end = memchr(data + begin, '\n', have - begin)); begin = (uint64_t)(end - data) + 1)
            GR_TRY(check_record(m, data + begin, (uint64_t)(end - data) - begin));
        have -= begin;
        memmove(data, data + begin, have);
    }
    m->torn = have > 0;
out:
    gr_free(&data);
    if (fd >= 0) close(fd);
    return st;
}

/* What it holds, beside what the rest of the run says. */
static gr_status check_extent(const metrics *m, const char *path, int64_t steps, int64_t saved, bool finished)
{
    gr_status st = GR_OK;

    GR_CHECK(!finished || !m->torn, GR_ERR_INPUT, "%s: the last line is torn", path);
    GR_CHECK(!finished || steps < 0 || m->step == steps, GR_ERR_INPUT,
             "%s: ends with step %" PRId64 ", the run had %" PRId64, path, m->step, steps);
    GR_CHECK(saved <= m->step, GR_ERR_INPUT, "%s: ends with step %" PRId64 ", there is a checkpoint of step %" PRId64,
             path, m->step, saved);
out:
    return st;
}

gr_status gr_check_metrics(gr_checker *k, const char *path, int64_t steps, int64_t saved, bool finished, int64_t *last)
{
    gr_status st = GR_OK;
    metrics   m = {0};
    char      facts[160];

    st = read_metrics(&m, path);
    if (st == GR_OK) st = check_extent(&m, path, steps, saved, finished);
    snprintf(facts, sizeof facts, "%" PRId64 " steps, %" PRId64 " tokens; has no checksum%s", m.step, m.tokens,
             m.torn ? "; the last line is torn, resuming drops it" : "");
    *last = st == GR_OK ? m.step : -1;
    return gr_judge(k, st, "metrics", path, facts);
}

/* ---- the run ------------------------------------------------------------------------------------------------ */

/* The newest step among the names of checkpoints, sound or not; -1: none. */
static gr_status newest_saved(const char *ckpt, int64_t *step)
{
    gr_status st = GR_OK;
    char    **name = NULL;
    int64_t   n = 0, s;

    *step = -1;
    if (!gr_exists(ckpt)) goto out;
    GR_TRY(gr_list(ckpt, &name, &n));
    for (int64_t i = 0; i < n; i++)
        if (sscanf(name[i], "step-%18" SCNd64, &s) == 1 && s > *step) *step = s;
out:
    gr_names_free(&name, n);
    return st;
}

/* What must be there, and is not. */
static gr_status check_complete(gr_checker *k, const char *dir, bool finished, int64_t steps, int64_t every,
                                int64_t last, int64_t saved)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];

    if (finished || steps < 0 || last < 0) goto out;
    GR_TRY(gr_path(path, "%s/%s", dir, last >= steps ? "weights.h5" : "ckpt"));
    if (last >= steps)
        GR_TRY(gr_find(k, GR_MISSING, "weights", path, "all %" PRId64 " steps are done, but this is not there", steps));
    else if (saved < 0 && last >= every)
        GR_TRY(gr_find(k, GR_MISSING, "checkpoint", path,
                       "%" PRId64 " steps are done, one is saved every %" PRId64 ", but none is there", last, every));
    else
        GR_TRY(gr_find(k, GR_REMARK, "run", dir, "not finished: step %" PRId64 " of %" PRId64 ", saved %" PRId64, last,
                       steps, saved));
out:
    return st;
}

/* [rank 0] */
static gr_status check_training(gr_checker *k, const char *dir, bool finished, const char *made_with)
{
    gr_status st = GR_OK;
    char      config[GR_PATH_MAX], metrics_path[GR_PATH_MAX], ckpt[GR_PATH_MAX];
    int64_t   steps = -1, every = INT64_MAX, saved = -1, last = -1;
    bool      trained;

    GR_TRY(gr_path(config, "%s/config.yaml", dir));
    GR_TRY(gr_path(metrics_path, "%s/metrics.jsonl", dir));
    GR_TRY(gr_path(ckpt, "%s/ckpt", dir));
    trained = gr_exists(metrics_path) || gr_exists(ckpt);
    if (!trained && !gr_exists(config)) goto out;
    GR_TRY(gr_check_config(k, config, made_with, &steps, &every));
    if (!trained && steps < 0) goto out;                    /* of a program that leaves nothing more */
    if (newest_saved(ckpt, &saved) != GR_OK) *k->cause = 0; /* the walk says so */
    GR_TRY(gr_check_metrics(k, metrics_path, steps, saved, finished, &last));
    GR_TRY(check_complete(k, dir, finished, steps, every, last, saved));
out:
    return st;
}

gr_status gr_check_run(gr_checker *k, const char *dir)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX], *config = NULL;
    int64_t   finished = 0;

    GR_TRY(gr_path(path, "%s/weights.h5", dir));
    if (gr_comm_rank(k->c) == 0) finished = gr_exists(path);
    gr_max_i64(k->c, &finished, 1);
    if (finished) GR_TRY(gr_check_weights(k, path, &config));
    st = gr_comm_rank(k->c) == 0 ? check_training(k, dir, finished, config) : GR_OK;
    st = gr_agree(k->c, st);
out:
    gr_free(&config);
    return st;
}
