#include "config/room.h"
#include "util/mem.h"
#include "util/text.h"
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *gr_type_name(gr_key_type type)
{
    static const char *const name[] = {"an integer", "a number",          "true or false",
                                       "a string",   "a list of strings", "one of the alternatives"};
    return name[type];
}

const char *gr_clip(char dst[GR_CLIP_MAX], const char *text)
{
    size_t n = 0;

    while (n < GR_CLIP_MAX - 4 && text[n]) {
        dst[n] = (unsigned char)text[n] < 0x20 || text[n] == 0x7F ? '?' : text[n];
        n++;
    }
    snprintf(dst + n, GR_CLIP_MAX - n, "%s", text[n] ? "..." : "");
    return dst;
}

static const char *unit_of(const gr_key *key, char dst[GR_CLIP_MAX])
{
    snprintf(dst, GR_CLIP_MAX, *key->unit ? " [%s]" : "%s", key->unit);
    return dst;
}

/* -?digits, without the leading zeros that mean octal elsewhere. */
static gr_status set_int(int64_t *v, const gr_key *key, const char *text, const char *where)
{
    gr_status   st = GR_OK;
    const char *digit = text + (*text == '-' || *text == '+');
    const bool  decimal = *digit && strspn(digit, "0123456789") == strlen(digit) && (*digit != '0' || !digit[1]);
    char        unit[GR_CLIP_MAX];
    long long   x;

    GR_CHECK(decimal, GR_ERR_CONFIG, "%s: expected an integer (decimal digits)", where);
    errno = 0;
    x = strtoll(text, NULL, 10); /* saturates, so the range check names the right side */
    GR_CHECK(x >= key->low, GR_ERR_CONFIG, "%s: below the least value %" PRId64 "%s", where, key->low,
             unit_of(key, unit));
    GR_CHECK(x <= key->high && errno != ERANGE, GR_ERR_CONFIG, "%s: above the greatest value %" PRId64 "%s", where,
             key->high, unit_of(key, unit));
    *v = x;
out:
    return st;
}

/* -?digits[.digits][e-?digits]: strtod alone would also take 0x1p3, inf and nan. */
static bool is_number(const char *s)
{
    size_t whole, fraction = 0;

    s += *s == '-' || *s == '+';
    whole = strspn(s, "0123456789");
    s += whole;
    if (*s == '.') {
        fraction = strspn(s + 1, "0123456789");
        s += 1 + fraction;
    }
    if (whole + fraction == 0) return false;
    if (*s == 'e' || *s == 'E') {
        s += 1 + (s[1] == '-' || s[1] == '+');
        if (!isdigit((unsigned char)*s)) return false;
        s += strspn(s, "0123456789");
    }
    return *s == 0;
}

static gr_status set_num(double *v, const gr_key *key, const char *text, const char *where)
{
    gr_status st = GR_OK;
    char      unit[GR_CLIP_MAX];
    double    x;

    GR_CHECK(is_number(text), GR_ERR_CONFIG, "%s: expected a number", where);
    x = strtod(text, NULL); /* too large is Inf, hence above the range */
    GR_CHECK(x >= key->least, GR_ERR_CONFIG, "%s: below the least value %g%s", where, key->least, unit_of(key, unit));
    GR_CHECK(x <= key->most, GR_ERR_CONFIG, "%s: above the greatest value %g%s", where, key->most, unit_of(key, unit));
    *v = x;
out:
    return st;
}

static gr_status set_bool(bool *v, const char *text, const char *where)
{
    gr_status  st = GR_OK;
    const bool yes = !strcmp(text, "true");

    GR_CHECK(yes || !strcmp(text, "false"), GR_ERR_CONFIG, "%s: expected true or false", where);
    *v = yes;
out:
    return st;
}

/* The alternatives of a key, each ended by a zero: values point at them, and nobody owns a value. */
static const char *alternatives(const gr_key *key)
{
    static char words[GR_N_KEYS][GR_CHOICES_MAX];
    char       *w = words[key - gr_keys];

    if (!*w) {
        snprintf(w, GR_CHOICES_MAX - 1, "%s", key->choices);
        for (char *bar = w; (bar = strchr(bar, '|')); bar++) *bar = 0;
    }
    return w;
}

static gr_status set_enum(const char **v, const gr_key *key, const char *text, const char *where)
{
    gr_status   st = GR_OK;
    const char *w = alternatives(key);

    while (*w && strcmp(w, text) != 0) w += strlen(w) + 1;
    GR_CHECK(*w, GR_ERR_CONFIG, "%s: expected one of %s", where, key->choices);
    *v = w;
out:
    return st;
}

gr_status gr_expand(char **out, const char *text, const char *where)
{
    gr_status st = GR_OK;
    gr_text   t = {0};
    char      name[128], clip[GR_CLIP_MAX];
    uint32_t  code = 0;
    int       n;

    gr_text_put(&t, "", 0);
    while (*text) {
        if (!strncmp(text, "$${", 3)) {
            gr_text_put(&t, "${", 2);
            text += 3;
        } else if (!strncmp(text, "${", 2)) {
            const size_t len = strcspn(text + 2, "}");
            const char  *value;

            GR_CHECK(text[2 + len], GR_ERR_CONFIG, "%s: ${ without } (a literal ${ is written $${)", where);
            GR_CHECK(len > 0 && len < sizeof name, GR_ERR_CONFIG, "%s: not a variable: %s", where, gr_clip(clip, text));
            memcpy(name, text + 2, len);
            name[len] = 0;
            value = getenv(name);
            GR_CHECK(value, GR_ERR_CONFIG, "%s: the environment has no %s", where, gr_clip(clip, name));
            gr_text_put(&t, value, strlen(value));
            text += len + 3;
        } else {
            gr_text_put(&t, text++, 1);
        }
    }
    GR_TRY(t.st);
    for (const char *s = t.s; (n = gr_utf8_next(s, &code)) != 0; s += n)
        GR_CHECK(n > 0, GR_ERR_CONFIG, "%s: byte %td is not UTF-8", where, s - t.s);
    GR_TRY(gr_strdup(out, t.s));
out:
    gr_text_close(&t);
    return st;
}

static gr_status set_str(char **v, const gr_key *key, const char *text, const char *where)
{
    gr_status st = GR_OK;
    char     *fresh = NULL;

    GR_TRY(gr_expand(&fresh, text, where));
    GR_CHECK(*fresh || (key->preset && key->type != GR_KEY_STRS), GR_ERR_CONFIG, "%s: must not be empty", where);
    gr_free(v);
    *v = fresh;
    fresh = NULL;
out:
    gr_free(&fresh);
    return st;
}

void gr_value_clear(gr_config *cfg, const gr_key *key)
{
    gr_strings *list = GR_MEMBER(gr_strings, cfg, key);

    for (int64_t i = 0; i < list->n; i++) gr_free(&list->v[i]);
    gr_free(&list->v);
    list->n = 0;
}

gr_status gr_value_append(gr_config *cfg, const gr_key *key, const char *text, const char *where)
{
    gr_status      st = GR_OK;
    gr_strings    *list = GR_MEMBER(gr_strings, cfg, key);
    const uint64_t n = (uint64_t)list->n;

    if ((n & (n - 1)) == 0)
        GR_TRY(gr_realloc(&list->v, n ? 2 * n : 1, sizeof *list->v, key->path)); /* 0, 1, 2, 4, ... */
    GR_TRY(set_str(&list->v[n], key, text, where));
    list->n++;
out:
    return st;
}

gr_status gr_value_set(gr_config *cfg, const gr_key *key, const char *text, const char *where)
{
    switch (key->type) {
    case GR_KEY_INT: return set_int(GR_MEMBER(int64_t, cfg, key), key, text, where);
    case GR_KEY_NUM: return set_num(GR_MEMBER(double, cfg, key), key, text, where);
    case GR_KEY_BOOL: return set_bool(GR_MEMBER(bool, cfg, key), text, where);
    case GR_KEY_STR: return set_str(GR_MEMBER(char *, cfg, key), key, text, where);
    case GR_KEY_ENUM: return set_enum(GR_MEMBER(const char *, cfg, key), key, text, where);
    case GR_KEY_STRS: break;
    }
    gr_value_clear(cfg, key);
    return gr_value_append(cfg, key, text, where);
}

bool gr_value_present(const gr_config *cfg, const gr_key *key)
{
    switch (key->type) {
    case GR_KEY_STR: return *GR_MEMBER(char *, cfg, key) != NULL;
    case GR_KEY_STRS: return key->preset || GR_MEMBER(gr_strings, cfg, key)->n > 0;
    default: return true;
    }
}
