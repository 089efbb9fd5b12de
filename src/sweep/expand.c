#include "sweep/expand.h"
#include "mixers/registry.h"
#include "util/mem.h"
#include "util/text.h"
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    DIGITS = 9,    /* of a number in a ratio                                              */
    MAX_WHOLE = 64 /* a share of more layers than that is taken for a mistake: 0.33, 0.66 */
};

typedef struct candidate {
    char  name[GR_MEMBER_NAME]; /* "gdn_0.75"                                        */
    char  kind[GR_MEMBER_NAME]; /* "gdn"; of a pattern its name: what keys may choose */
    char *pattern;              /* for convert.pattern                                */
} candidate;

typedef struct candidates {
    candidate *v;
    int64_t    n;
} candidates;

/* Append the parts, up to a NULL, as one string. */
static gr_status append(gr_strings *list, const char *const *part)
{
    gr_status st = GR_OK;
    gr_text   t = {0};

    for (; *part; part++) gr_text_put(&t, *part, strlen(*part));
    GR_TRY(t.st);
    GR_TRY(gr_realloc(&list->v, (uint64_t)list->n + 1, sizeof *list->v, "keys of a member"));
    list->v[list->n++] = t.s;
    t = (gr_text){0};
out:
    gr_text_close(&t);
    return st;
}

#define APPEND(list, ...) append((list), (const char *const[]){__VA_ARGS__, NULL})

/* Names become directories, and fields of a table. */
static gr_status check_name(const char *name, size_t n, const char *entry)
{
    static const char fine[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    gr_status         st = GR_OK;

    GR_CHECK(n > 0 && n < GR_MEMBER_NAME && strspn(name, fine) >= n && isalnum((unsigned char)*name), GR_ERR_CONFIG,
             "sweep: '%s': a name begins with a letter or a digit and is 1 to %d of letters, digits, '_', '-', '.'",
             entry, GR_MEMBER_NAME - 1);
out:
    return st;
}

/* ---- ratios ----------------------------------------------------------------------------------------------------- */

typedef struct ratio {
    int64_t part, whole; /* in lowest terms, 0 < part <= whole */
} ratio;

/* Digits at *s, which moves behind them. -1: none, or too many. */
static int64_t read_digits(const char **s)
{
    const size_t n = strspn(*s, "0123456789");
    int64_t      x = 0;

    if (n == 0 || n > DIGITS) return -1;
    for (size_t i = 0; i < n; i++) x = 10 * x + (*(*s)++ - '0');
    return x;
}

static int64_t common_divisor(int64_t a, int64_t b)
{
    while (b) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* "3/4", "0.75", "1" */
static gr_status read_ratio(ratio *r, const char *text)
{
    gr_status   st = GR_OK;
    const char *s = text;
    int64_t     part = read_digits(&s), whole = 1, divisor;

    if (part >= 0 && *s == '/') {
        s++;
        whole = read_digits(&s);
    } else if (part >= 0 && *s == '.') {
        const char   *point = s++;
        const int64_t fraction = read_digits(&s);

        for (const char *digit = point + 1; digit < s; digit++) whole *= 10;
        part = fraction < 0 ? -1 : part * whole + fraction;
    }
    GR_CHECK(part > 0 && part <= whole && !*s, GR_ERR_CONFIG,
             "sweep.ratios: '%s': expected a part of the layers above 0 and up to 1, such as 0.5 or 2/3", text);
    divisor = common_divisor(part, whole);
    *r = (ratio){part / divisor, whole / divisor};
    GR_CHECK(r->whole <= MAX_WHOLE, GR_ERR_CONFIG,
             "sweep.ratios: '%s' is %" PRId64 " of %" PRId64 " layers; a ratio is at most one of %d: 1/3, not 0.333",
             text, r->part, r->whole, MAX_WHOLE);
out:
    return st;
}

/* ---- candidates ------------------------------------------------------------------------------------------------- */

static gr_status uniform_pattern(char **pattern, const char *type, const ratio *r)
{
    gr_text t = {0};

    if (r->part == r->whole)
        gr_text_add(&t, "uniform(%s)", type);
    else
        gr_text_add(&t, "uniform(%s:%" PRId64 ",%s:%" PRId64 ")", gr_mixer_attention()->def->name, r->whole - r->part,
                    type, r->part);
    *pattern = t.s;
    return t.st;
}

static gr_status check_type(const char *type)
{
    gr_status       st = GR_OK;
    const gr_mixer *m = gr_mixer_find(type);

    GR_CHECK(m, GR_ERR_CONFIG, "sweep.types: unknown mixer '%s'; there are: %s", type, gr_mixer_names());
    GR_CHECK(m != gr_mixer_attention(), GR_ERR_CONFIG, "sweep.types: '%s' is what the others take the place of", type);
out:
    return st;
}

static gr_status add_typed(candidates *all, const char *type, const char *share)
{
    gr_status   st = GR_OK;
    candidate  *c = &all->v[all->n++];
    const char *slash = strchr(share, '/');
    ratio       r = {0};

    GR_TRY(check_type(type));
    GR_TRY(read_ratio(&r, share));
    GR_TRY(uniform_pattern(&c->pattern, type, &r));
    snprintf(c->kind, sizeof c->kind, "%s", type);
    if (slash)
        snprintf(c->name, sizeof c->name, "%s_%.*sof%s", type, (int)(slash - share), share, slash + 1);
    else
        snprintf(c->name, sizeof c->name, "%s_%s", type, share);
out:
    return st;
}

/* "name=pattern" */
static gr_status add_pattern(candidates *all, const char *entry)
{
    gr_status   st = GR_OK;
    candidate  *c = &all->v[all->n++];
    const char *equals = strchr(entry, '=');

    GR_CHECK(equals && equals[1], GR_ERR_CONFIG, "sweep.patterns: '%s' is not 'name=pattern'", entry);
    GR_TRY(check_name(entry, (size_t)(equals - entry), entry));
    snprintf(c->name, sizeof c->name, "%.*s", (int)(equals - entry), entry);
    snprintf(c->kind, sizeof c->kind, "%s", c->name);
    GR_TRY(gr_strdup(&c->pattern, equals + 1));
out:
    return st;
}

static gr_status read_candidates(candidates *all, const gr_cfg_sweep *cfg)
{
    gr_status     st = GR_OK;
    const int64_t n = cfg->types.n * cfg->ratios.n + cfg->patterns.n;

    GR_CHECK(!cfg->types.n == !cfg->ratios.n, GR_ERR_CONFIG, "sweep.types and sweep.ratios go together");
    GR_CHECK(n > 0, GR_ERR_CONFIG, "no members: give sweep.types and sweep.ratios, or sweep.patterns");
    GR_TRY(gr_alloc(&all->v, (uint64_t)n, sizeof *all->v, "candidates"));
    for (int64_t i = 0; i < cfg->types.n; i++)
        for (int64_t k = 0; k < cfg->ratios.n; k++) GR_TRY(add_typed(all, cfg->types.v[i], cfg->ratios.v[k]));
    for (int64_t i = 0; i < cfg->patterns.n; i++) GR_TRY(add_pattern(all, cfg->patterns.v[i]));
out:
    return st;
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

/* [KIND@][STAGE:]section.key=value */
typedef struct entry {
    const char *text;
    char        kind[GR_MEMBER_NAME];  /* "": every candidate                */
    char        stage[GR_MEMBER_NAME]; /* "": every stage that has the key   */
    char        path[GR_MEMBER_NAME];  /* "section.key"                      */
    const char *assignment;            /* "section.key=value"                */
} entry;

/* The text up to `mark` goes to dst, if there is such a mark before the '='; *s moves behind it. */
static bool take_prefix(char dst[GR_MEMBER_NAME], const char **s, char mark)
{
    const char  *end = *s + strcspn(*s, "=");
    const char  *at = memchr(*s, mark, (size_t)(end - *s));
    const size_t n = at ? (size_t)(at - *s) : 0;

    *dst = 0;
    if (!at) return true;
    if (n == 0 || n >= GR_MEMBER_NAME) return false;
    snprintf(dst, GR_MEMBER_NAME, "%.*s", (int)n, *s);
    *s = at + 1;
    return true;
}

static gr_status read_entry(entry *e, const char *text)
{
    gr_status   st = GR_OK;
    const char *s = text;
    bool        fine = take_prefix(e->kind, &s, '@') && take_prefix(e->stage, &s, ':');
    size_t      n = strcspn(s, "=");

    fine = fine && s[n] && n > 0 && n < sizeof e->path;
    GR_CHECK(fine, GR_ERR_CONFIG, "sweep.keys: '%s' is not '[CANDIDATE@][STAGE:]section.key=value'", text);
    snprintf(e->path, sizeof e->path, "%.*s", (int)n, s);
    e->text = text;
    e->assignment = s;
out:
    return st;
}

static bool stage_has(const char *stage, const char *path)
{
    const char *dot = strchr(path, '.'), *key;

    for (int i = 0; dot && (key = gr_config_key(stage, dot + 1, i)); i++)
        if (!strcmp(key, path)) return true;
    return false;
}

/* What the sweep itself sets, and what could not be told from another key in a table. */
static gr_status check_entry(const entry *e, const gr_cfg_sweep *cfg, const candidates *all)
{
    gr_status    st = GR_OK;
    const size_t n = strlen(e->path);
    bool         known = !*e->kind, has = false;

    for (int64_t i = 0; i < all->n; i++) known = known || !strcmp(all->v[i].kind, e->kind);
    GR_CHECK(known, GR_ERR_CONFIG, "sweep.keys: '%s': no candidate is of type or pattern '%s'", e->text, e->kind);
    for (int64_t i = 0; i < cfg->stages.n; i++)
        has = has || ((!*e->stage || !strcmp(e->stage, cfg->stages.v[i])) && stage_has(cfg->stages.v[i], e->path));
    GR_CHECK(has, GR_ERR_CONFIG, "sweep.keys: '%s': no stage of the members%s%s has the key %s", e->text,
             *e->stage ? " called " : "", e->stage, e->path);
    GR_CHECK(strcmp(e->path, "run.out") != 0 && strcmp(e->path, "convert.pattern") != 0 &&
                 strcmp(e->path, "convert.selection") != 0,
             GR_ERR_CONFIG, "sweep.keys: '%s': the sweep itself sets it", e->text);
    GR_CHECK(!cfg->seeds.n || n < 5 || strcmp(e->path + n - 5, ".seed") != 0, GR_ERR_CONFIG,
             "sweep.keys: '%s': seeds come from sweep.seeds", e->text);
out:
    return st;
}

static gr_status add_entry(gr_member *m, const entry *e, const gr_cfg_sweep *cfg)
{
    gr_status st = GR_OK;

    for (int64_t i = 0; i < cfg->stages.n; i++)
        if ((!*e->stage || !strcmp(e->stage, cfg->stages.v[i])) && stage_has(cfg->stages.v[i], e->path))
            GR_TRY(APPEND(&m->keys, cfg->stages.v[i], ":", e->assignment));
out:
    return st;
}

static gr_status add_entries(gr_member *m, const candidate *c, const gr_cfg_sweep *cfg, const candidates *all)
{
    gr_status st = GR_OK;
    entry     e;

    for (int64_t i = 0; i < cfg->keys.n; i++) {
        GR_TRY(read_entry(&e, cfg->keys.v[i]));
        GR_TRY(check_entry(&e, cfg, all));
        if (!*e.kind || !strcmp(e.kind, c->kind)) GR_TRY(add_entry(m, &e, cfg));
    }
out:
    return st;
}

static gr_status add_seeds(gr_member *m, const gr_cfg_sweep *cfg, const char *seed)
{
    gr_status   st = GR_OK;
    const char *key;

    for (int64_t i = 0; i < cfg->stages.n; i++)
        for (int k = 0; (key = gr_config_key(cfg->stages.v[i], "seed", k)); k++)
            GR_TRY(APPEND(&m->keys, cfg->stages.v[i], ":", key, "=", seed));
out:
    return st;
}

/* ---- members ---------------------------------------------------------------------------------------------------- */

/* slurm/sweep.sh separates keys by blanks, and takes what follows a # for a comment. */
static gr_status check_keys(const gr_member *m)
{
    gr_status st = GR_OK;

    for (int64_t i = 0; i < m->keys.n; i++)
        GR_CHECK(!m->keys.v[i][strcspn(m->keys.v[i], " \t\r\n#")], GR_ERR_CONFIG,
                 "member %s: %s: blanks and # cannot stand in a table of members", m->name, m->keys.v[i]);
out:
    return st;
}

static bool same_keys(const gr_strings *a, const gr_strings *b)
{
    bool same = a->n == b->n;

    for (int64_t i = 0; same && i < a->n; i++) same = !strcmp(a->v[i], b->v[i]);
    return same;
}

static gr_status check_unlike(const gr_members *all, const gr_member *m)
{
    gr_status st = GR_OK;

    for (const gr_member *other = all->member; other < m; other++) {
        GR_CHECK(strcmp(other->name, m->name) != 0, GR_ERR_CONFIG, "sweep: two members are called %s", m->name);
        GR_CHECK(!same_keys(&other->keys, &m->keys), GR_ERR_CONFIG, "sweep: members %s and %s are the same",
                 other->name, m->name);
    }
out:
    return st;
}

static gr_status add_member(gr_members *all, const candidate *c, const gr_cfg_sweep *cfg, const candidates *of,
                            const char *seed)
{
    gr_status  st = GR_OK;
    gr_member *m = &all->member[all->n++];
    const int  n = snprintf(m->name, sizeof m->name, "%s%s%s", c->name, seed ? "_s" : "", seed ? seed : "");

    GR_TRY(check_name(m->name, (size_t)n, m->name));
    GR_TRY(APPEND(&m->keys, "convert:convert.pattern=", c->pattern));
    if (seed) GR_TRY(add_seeds(m, cfg, seed));
    GR_TRY(add_entries(m, c, cfg, of));
    GR_TRY(check_keys(m));
    GR_TRY(check_unlike(all, m));
out:
    return st;
}

gr_status gr_members_expand(gr_members *all, const gr_cfg_sweep *cfg)
{
    gr_status     st = GR_OK;
    candidates    of = {0};
    const int64_t n_seed = cfg->seeds.n ? cfg->seeds.n : 1;

    GR_TRY(read_candidates(&of, cfg));
    GR_TRY(gr_alloc(&all->member, (uint64_t)(of.n * n_seed), sizeof *all->member, "members"));
    for (int64_t i = 0; i < of.n; i++)
        for (int64_t k = 0; k < n_seed; k++)
            GR_TRY(add_member(all, &of.v[i], cfg, &of, cfg->seeds.n ? cfg->seeds.v[k] : NULL));
out:
    for (int64_t i = 0; i < of.n; i++) gr_free(&of.v[i].pattern);
    gr_free(&of.v);
    return st;
}

void gr_members_close(gr_members *all)
{
    for (int64_t i = 0; i < all->n; i++) {
        gr_strings *keys = &all->member[i].keys;

        for (int64_t k = 0; k < keys->n; k++) gr_free(&keys->v[k]);
        gr_free(&keys->v);
    }
    gr_free(&all->member);
    *all = (gr_members){0};
}
