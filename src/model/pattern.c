#include "model/pattern.h"
#include "store/json_seal.h"
#include "util/mem.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ITEM = 512 };

/* A pattern while it is read: its items in order, and the layers that were chosen one by one. */
typedef struct reader {
    const char      *text, *p; /* all of it; what comes next */
    int              n_layer, n_item, n_chosen;
    const gr_mixer  *item[MAX_ITEM];
    int              count[MAX_ITEM]; /* 0: not said */
    const gr_mixer **mixer;           /* [n_layer]; NULL: not chosen yet */
} reader;

static void skip_blanks(reader *r)
{
    r->p += strspn(r->p, " ");
}

static gr_status read_number(reader *r, const char *after, int high, int *x)
{
    gr_status st = GR_OK;
    char     *end = NULL;
    long      v;

    GR_CHECK0(isdigit((unsigned char)*r->p), GR_ERR_CONFIG, "pattern '%s': expected a number after '%s'", r->text,
              after);
    v = strtol(r->p, &end, 10); /* saturates */
    GR_CHECK0(v <= high, GR_ERR_CONFIG, "pattern '%s': %.*s after '%s' is too large for a model of %d layers", r->text,
              (int)(end - r->p), r->p, after, r->n_layer);
    r->p = end;
    *x = (int)v;
out:
    return st;
}

static gr_status read_name(reader *r, const gr_mixer **m)
{
    gr_status    st = GR_OK;
    const size_t len = strcspn(r->p, ",:@() ");
    char         name[32];

    snprintf(name, sizeof name, "%.*s", (int)len, r->p);
    *m = gr_mixer_find(name);
    GR_CHECK0(*m, GR_ERR_CONFIG, "pattern '%s': unknown mixer '%s'; there are: %s", r->text, name, gr_mixer_names());
    r->p += len;
out:
    return st;
}

/* After '@': 3+7+12-15 */
static gr_status read_layers(reader *r, const gr_mixer *m)
{
    gr_status st = GR_OK;
    int       first = 0, last = 0;

    do {
        r->p++;
        GR_TRY(read_number(r, "@", r->n_layer - 1, &first));
        last = first;
        if (*r->p == '-') {
            r->p++;
            GR_TRY(read_number(r, "-", r->n_layer - 1, &last));
        }
        for (int i = first; i <= last; i++) {
            GR_CHECK0(!r->mixer[i], GR_ERR_CONFIG, "pattern '%s': layer %d is chosen twice", r->text, i);
            r->mixer[i] = m;
            r->n_chosen++;
        }
        GR_CHECK0(first <= last, GR_ERR_CONFIG, "pattern '%s': no layers in %d-%d", r->text, first, last);
    } while (*r->p == '+');
out:
    return st;
}

static gr_status read_item(reader *r)
{
    gr_status       st = GR_OK;
    const gr_mixer *m = NULL;
    int             count = 0;

    GR_TRY(read_name(r, &m));
    if (*r->p == '@') {
        GR_TRY(read_layers(r, m));
        goto out;
    }
    if (*r->p == ':') {
        r->p++;
        GR_TRY(read_number(r, ":", r->n_layer, &count));
        GR_CHECK0(count > 0, GR_ERR_CONFIG, "pattern '%s': a count of 0", r->text);
    }
    GR_CHECK0(r->n_item < MAX_ITEM, GR_ERR_CONFIG, "pattern '%s': more than %d items", r->text, MAX_ITEM);
    r->item[r->n_item] = m;
    r->count[r->n_item++] = count;
out:
    return st;
}

/* Items up to the end, or up to the parenthesis that closes a group. */
static gr_status read_items(reader *r, bool group)
{
    gr_status st = GR_OK;

    do {
        GR_TRY(read_item(r));
        skip_blanks(r);
        if (*r->p != ',') break;
        r->p++;
        skip_blanks(r);
    } while (*r->p);
    GR_CHECK0(!group || *r->p == ')', GR_ERR_CONFIG, "pattern '%s': a parenthesis is not closed", r->text);
    r->p += group;
    GR_CHECK0(!*r->p, GR_ERR_CONFIG, "pattern '%s': unexpected '%s'", r->text, r->p);
out:
    return st;
}

static int count_of(const reader *r, int i)
{
    return r->count[i] ? r->count[i] : 1;
}

/* ---- placement --------------------------------------------------------------------------------------------------- */

/* One after the other, and once more from the start when `repeat`. */
static gr_status place_in_order(reader *r, bool repeat)
{
    gr_status st = GR_OK;
    int       n = 0, total = 0;

    for (int i = 0; i < r->n_item; i++) total += count_of(r, i);
    GR_CHECK0(repeat ? total <= r->n_layer : total == r->n_layer, GR_ERR_CONFIG,
              "pattern '%s': %d layers, the model has %d", r->text, total, r->n_layer);
    while (n < r->n_layer)
        for (int i = 0; i < r->n_item; i++)
            for (int k = 0; k < count_of(r, i) && n < r->n_layer; k++) r->mixer[n++] = r->item[i];
out:
    return st;
}

/* Each layer goes to the item that is furthest behind its share; of equals, to the first. */
static void place_evenly(reader *r)
{
    int64_t total = 0, given[MAX_ITEM] = {0};

    for (int i = 0; i < r->n_item; i++) total += count_of(r, i);
    for (int n = 0; n < r->n_layer; n++) {
        int64_t most = INT64_MIN;
        int     behind = 0;

        for (int i = 0; i < r->n_item; i++) {
            const int64_t lag = (int64_t)count_of(r, i) * (n + 1) - given[i] * total;
            if (lag > most) most = lag, behind = i;
        }
        given[behind]++;
        r->mixer[n] = r->item[behind];
    }
}

/* What was not chosen layer by layer gets the one name that has no layers. */
static gr_status place_rest(reader *r)
{
    gr_status st = GR_OK;

    GR_CHECK0(r->n_item <= 1 && (r->n_item == 0 || !r->count[0]), GR_ERR_CONFIG,
              "pattern '%s': beside chosen layers, one name without a count is for all others", r->text);
    GR_CHECK0(r->n_item == 1 || r->n_chosen == r->n_layer, GR_ERR_CONFIG,
              "pattern '%s': %d layers are chosen, the model has %d, and no name is for the others", r->text,
              r->n_chosen, r->n_layer);
    for (int i = 0; i < r->n_layer; i++)
        if (!r->mixer[i]) r->mixer[i] = r->item[0];
out:
    return st;
}

gr_status gr_pattern_parse(const char *text, int n_layer, const gr_mixer **mixer)
{
    static const char uniform[] = "uniform(";
    gr_status         st = GR_OK;
    reader            r = {.text = text, .p = text, .n_layer = n_layer, .mixer = mixer};
    const bool        evenly = !strncmp(text, uniform, sizeof uniform - 1), repeat = *text == '(';

    for (int i = 0; i < n_layer; i++) mixer[i] = NULL;
    r.p += evenly ? sizeof uniform - 1 : repeat;
    GR_TRY(read_items(&r, evenly || repeat));
    GR_CHECK0(!r.n_chosen || !(evenly || repeat), GR_ERR_CONFIG,
              "pattern '%s': layers cannot be chosen inside parentheses", text);
    if (r.n_chosen)
        GR_TRY(place_rest(&r));
    else if (evenly)
        place_evenly(&r);
    else
        GR_TRY(place_in_order(&r, repeat));
out:
    return st;
}

/* ---- files, text ------------------------------------------------------------------------------------------------ */

typedef struct selection {
    char *text;
} selection;

static gr_status read_selection(void *user, const char *text, uint64_t n, const char *name)
{
    gr_status   st = GR_OK;
    selection  *s = user;
    json_t     *tree = NULL;
    const char *pattern = NULL;

    GR_TRY(gr_json_parse(text, n, name, &tree));
    GR_TRY(gr_json_get_str(tree, name, "pattern", &pattern));
    GR_TRY(gr_strdup(&s->text, pattern));
out:
    json_decref(tree);
    return st;
}

gr_status gr_pattern_select(const gr_comm *c, const char *path, char **text)
{
    selection       s = {0};
    const gr_status st = gr_json_share(c, path, read_selection, &s);

    *text = s.text;
    return st;
}

gr_status gr_pattern_text(const gr_mixer *const *mixer, int n_layer, char **text)
{
    gr_status    st = GR_OK;
    const size_t room = (size_t)n_layer * 33 + 1; /* a name and a comma per layer */
    size_t       at = 0;

    GR_TRY(gr_alloc(text, room, 1, "pattern"));
    for (int i = 0; i < n_layer; i++)
        at += (size_t)snprintf(*text + at, room - at, "%s%s", i ? "," : "", mixer[i]->def->name);
out:
    return st;
}
