#include "report/ranking.h"
#include "util/fs.h"
#include "util/mem.h"
#include "util/text.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_BYTES (UINT64_C(64) << 20)

/* ---- the table of members --------------------------------------------------------------------------------------- */

/* "convert align evaluate", cut up in place */
static gr_status read_stages(gr_ranking *r, char *list, const char *path)
{
    gr_status st = GR_OK;
    char     *rest = NULL;

    for (char *s = strtok_r(list, " ", &rest); s; s = strtok_r(NULL, " ", &rest)) {
        GR_CHECK(r->n_stage < GR_STAGES, GR_ERR_INPUT, "%s: more than %d stages", path, GR_STAGES);
        r->stage[r->n_stage++] = s;
    }
out:
    return st;
}

static gr_status read_line(gr_ranking *r, char *line, const char *path)
{
    static const char stages[] = "#stages: ";
    static const char fine[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    gr_status         st = GR_OK;
    gr_entrant       *e = &r->entrant[r->n_entrant];
    char             *tab = strchr(line, '\t');

    if (!strncmp(line, stages, sizeof stages - 1)) {
        st = read_stages(r, line + sizeof stages - 1, path);
        goto out;
    }
    if (*line == '#' || !*line) goto out;
    if (tab) *tab = 0;
    GR_CHECK(*line != '.' && line[strspn(line, fine)] == 0, GR_ERR_INPUT, "%s: '%.40s' is no name of a member", path,
             line);
    *e = (gr_entrant){.name = line, .keys = tab ? tab + 1 : "", .perplexity = NAN, .kl = NAN, .behind = NAN};
    r->n_entrant++;
out:
    return st;
}

static gr_status read_table(gr_ranking *r, const char *dir)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];
    uint64_t  n = 0, lines = 1;

    GR_TRY(gr_path(path, "%s/members.tsv", dir));
    GR_TRY(gr_read_file(path, LIMIT_BYTES, &r->text, &n));
    GR_CHECK(strlen(r->text) == n, GR_ERR_INPUT, "%s: not text", path);
    for (uint64_t i = 0; i < n; i++) lines += r->text[i] == '\n';
    GR_TRY(gr_alloc(&r->entrant, lines, sizeof *r->entrant, "members"));
    for (char *line = r->text, *end; line; line = end) {
        end = strchr(line, '\n');
        if (end) *end++ = 0;
        GR_TRY(read_line(r, line, path));
    }
    GR_CHECK(r->n_stage > 0 && r->n_entrant > 0, GR_ERR_INPUT, "%s: no %s: not a table of slurm/sweep.sh", path,
             r->n_stage ? "members" : "stages");
out:
    return st;
}

/* ---- members ---------------------------------------------------------------------------------------------------- */

/* One stage's directory: sets *complete and *any. */
static gr_status look_at_stage(gr_entrant *e, const char *dir, const char *stage, gr_curve *c, bool *complete,
                               bool *any)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX], file[GR_PATH_MAX];
    gr_judged j = {.kl = NAN};

    GR_TRY(gr_path(path, "%s/%s/%s", dir, e->name, stage));
    *any = gr_exists(path);
    GR_TRY(gr_path(file, "%s/graft.json", path));
    *complete = gr_exists(file);
    GR_TRY(gr_path(file, "%s/metrics.jsonl", path));
    if (gr_exists(file)) {
        GR_TRY(gr_curve_read_running(c, path));
        snprintf(c->stage, sizeof c->stage, "%s", stage);
        e->tokens += c->n ? c->tokens[c->n - 1] : 0;
        e->seconds += c->seconds;
    }
    GR_TRY(gr_path(file, "%s/results.json", path));
    if (!gr_exists(file)) goto out;
    GR_TRY(gr_judged_read(&j, path));
    e->perplexity = j.perplexity;
    e->kl = j.kl;
    e->seconds += j.seconds;
out:
    return st;
}

static gr_status look_at_stages(gr_entrant *e, const gr_ranking *r, const char *dir)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];
    int       next = -1; /* the first stage that is not complete */

    for (int s = 0; s < r->n_stage; s++) {
        bool complete = false, any = false;

        GR_TRY(look_at_stage(e, dir, r->stage[s], &e->curve[s], &complete, &any));
        e->begun = e->begun || any;
        if (!complete && next < 0) next = s;
    }
    GR_TRY(gr_path(path, "%s/%s/DONE", dir, e->name));
    e->done = next < 0 || gr_exists(path);
    if (e->done)
        snprintf(e->state, sizeof e->state, "done");
    else if (!e->begun)
        snprintf(e->state, sizeof e->state, "not begun");
    else if (e->curve[next].n)
        snprintf(e->state, sizeof e->state, "%.40s, step %.0f", r->stage[next],
                 e->curve[next].step[e->curve[next].n - 1]);
    else
        snprintf(e->state, sizeof e->state, "%.40s is next", r->stage[next]);
out:
    return st;
}

/* One that is damaged must not keep the others from being ranked. */
static gr_status read_entrant(gr_entrant *e, const gr_ranking *r, const char *dir)
{
    gr_status st;

    gr_log_keep(e->cause, sizeof e->cause);
    st = look_at_stages(e, r, dir);
    gr_log_keep(NULL, 0);
    if (st == GR_OK) return st;
    if (st != GR_ERR_INPUT) return gr_fail(__FILE__, __LINE__, st, "member %s: %s", e->name, e->cause);
    e->done = false;
    e->begun = true;
    e->perplexity = e->kl = NAN;
    snprintf(e->state, sizeof e->state, "damaged");
    return GR_OK;
}

/* ---- candidates ------------------------------------------------------------------------------------------------- */

/* Its length; 0 at the end of the list. */
static size_t key_length(const char *key)
{
    return strcspn(key, " ");
}

/* "align:train.seed=2" */
static bool is_seed(const char *key)
{
    const size_t n = strcspn(key, "= ");

    return key[n] == '=' && n > 5 && !strncmp(key + n - 5, ".seed", 5);
}

/* The first key at s that is a seed, or that is none. */
static const char *find_key(const char *s, bool seed)
{
    for (s += strspn(s, " "); *s && is_seed(s) != seed; s += strspn(s, " ")) s += key_length(s);
    return s;
}

/* Do two members have the same seeds, or the same other keys? */
static bool alike(const gr_entrant *a, const gr_entrant *b, bool seeds)
{
    const char *s = find_key(a->keys, seeds), *t = find_key(b->keys, seeds);

    while (*s && key_length(s) == key_length(t) && !strncmp(s, t, key_length(s))) {
        s = find_key(s + key_length(s), seeds);
        t = find_key(t + key_length(t), seeds);
    }
    return !*s && !*t;
}

static bool name_taken(const gr_ranking *r, const char *name)
{
    for (int64_t i = 0; i < r->n_candidate; i++)
        if (!strcmp(r->candidate[i].name, name)) return true;
    return false;
}

/* gdn_0.5_s1, whose seed is 1, is of gdn_0.5, unless other keys are called so. */
static void name_candidate(const gr_ranking *r, gr_candidate *c, const gr_entrant *e)
{
    const char  *seed = find_key(e->keys, true), *value = seed + strcspn(seed, "=");
    const size_t n_value = *value ? key_length(value) - 1 : 0;
    size_t       n = strlen(e->name);

    if (n_value > 0 && n > n_value + 2 && !strncmp(e->name + n - n_value, value + 1, n_value) &&
        !strncmp(e->name + n - n_value - 2, "_s", 2))
        n -= n_value + 2;
    snprintf(c->name, sizeof c->name, "%.*s", (int)n, e->name);
    if (name_taken(r, c->name)) snprintf(c->name, sizeof c->name, "%s", e->name);
}

static gr_status find_candidates(gr_ranking *r)
{
    gr_status st = GR_OK;

    GR_TRY(gr_alloc(&r->candidate, (uint64_t)r->n_entrant, sizeof *r->candidate, "candidates"));
    for (gr_entrant *e = r->entrant; e < r->entrant + r->n_entrant; e++) {
        const gr_entrant *first = r->entrant;

        while (first < e && !alike(first, e, false)) first++;
        e->candidate = first < e ? first->candidate : r->n_candidate;
        if (first < e) continue;
        name_candidate(r, &r->candidate[r->n_candidate], e);
        r->n_candidate++;
    }
out:
    return st;
}

static void spread_of(gr_spread *s, const gr_ranking *r, int64_t candidate, size_t member)
{
    double sum = 0, squares = 0;

    *s = (gr_spread){0, NAN, NAN, NAN, NAN};
    for (int pass = 0; pass < 2; pass++) {
        for (const gr_entrant *e = r->entrant; e < r->entrant + r->n_entrant; e++) {
            const double x = *(const double *)(const void *)((const char *)e + member);

            if (e->candidate != candidate || !e->done || isnan(x)) continue;
            if (pass == 1) {
                squares += (x - s->mean) * (x - s->mean);
                continue;
            }
            sum += x;
            s->least = s->n ? fmin(s->least, x) : x;
            s->most = s->n ? fmax(s->most, x) : x;
            s->n++;
        }
        if (s->n) s->mean = sum / (double)s->n;
    }
    if (s->n > 1) s->sd = sqrt(squares / (double)(s->n - 1));
}

static void sum_up(gr_ranking *r)
{
    for (int64_t i = 0; i < r->n_candidate; i++) {
        gr_candidate *c = &r->candidate[i];

        spread_of(&c->perplexity, r, i, offsetof(gr_entrant, perplexity));
        spread_of(&c->kl, r, i, offsetof(gr_entrant, kl));
        spread_of(&c->tokens, r, i, offsetof(gr_entrant, tokens));
        spread_of(&c->seconds, r, i, offsetof(gr_entrant, seconds));
    }
    for (const gr_entrant *e = r->entrant; e < r->entrant + r->n_entrant; e++) {
        r->candidate[e->candidate].n++;
        r->candidate[e->candidate].n_done += e->done;
        r->n_done += e->done;
        r->n_begun += e->begun;
    }
}

/* Is a before b? Those without a perplexity come last; what is equal keeps the order of the table. */
static bool better(const gr_candidate *a, const gr_candidate *b)
{
    return a->perplexity.n && (!b->perplexity.n || a->perplexity.mean < b->perplexity.mean);
}

/* By insertion: a sweep has tens of candidates. */
static gr_status sort(gr_ranking *r)
{
    gr_status st = GR_OK;
    int64_t  *place = NULL; /* [n_candidate] where each has gone */

    GR_TRY(gr_alloc(&place, (uint64_t)r->n_candidate, sizeof *place, "order of candidates"));
    for (int64_t i = 0; i < r->n_candidate; i++) r->candidate[i].rank = i; /* for now: where it was */
    for (int64_t i = 1; i < r->n_candidate; i++) {
        const gr_candidate c = r->candidate[i];
        int64_t            k = i;

        for (; k > 0 && better(&c, &r->candidate[k - 1]); k--) r->candidate[k] = r->candidate[k - 1];
        r->candidate[k] = c;
    }
    for (int64_t i = 0; i < r->n_candidate; i++) {
        place[r->candidate[i].rank] = i;
        r->candidate[i].rank = r->candidate[i].perplexity.n ? i + 1 : 0;
    }
    for (int64_t i = 0; i < r->n_entrant; i++) r->entrant[i].candidate = place[r->entrant[i].candidate];
out:
    gr_free(&place);
    return st;
}

/* Members with the same seed saw the same text in the same order: most of what seeds do, they do to all candidates, and
 * it cancels in the difference to the best one's. */
static void compare_with_best(gr_ranking *r)
{
    for (gr_entrant *e = r->entrant; e < r->entrant + r->n_entrant; e++)
        for (const gr_entrant *b = r->entrant; b < r->entrant + r->n_entrant; b++)
            if (b->candidate == 0 && b->done && alike(b, e, true)) e->behind = log(e->perplexity / b->perplexity);
    for (int64_t i = 0; i < r->n_candidate; i++) spread_of(&r->candidate[i].behind, r, i, offsetof(gr_entrant, behind));
}

gr_status gr_ranking_read(gr_ranking *r, const char *dir)
{
    gr_status st = GR_OK;

    GR_TRY(read_table(r, dir));
    for (int64_t i = 0; i < r->n_entrant; i++) GR_TRY(read_entrant(&r->entrant[i], r, dir));
    GR_TRY(find_candidates(r));
    sum_up(r);
    GR_TRY(sort(r));
    compare_with_best(r);
out:
    return st;
}

void gr_ranking_close(gr_ranking *r)
{
    for (int64_t i = 0; i < r->n_entrant; i++)
        for (int s = 0; s < r->n_stage; s++) gr_curve_close(&r->entrant[i].curve[s]);
    gr_free(&r->entrant);
    gr_free(&r->candidate);
    gr_free(&r->text);
    *r = (gr_ranking){0};
}
