#include "config/options.h"
#include "config/room.h"
#include <stdio.h>
#include <string.h>

static bool is_option(const gr_key *key)
{
    return !strcmp(key->section, "mixer");
}

static const gr_key *find(const char *name)
{
    for (const gr_key *key = gr_keys; key < gr_keys + GR_N_KEYS; key++)
        if (is_option(key) && !strcmp(key->name, name)) return key;
    return NULL;
}

gr_cfg_mixer gr_options_default(void)
{
    static const gr_config preset = {
#define GR_INT(s, k, def, ...)  .s.k = def,
#define GR_NUM(s, k, def, ...)  .s.k = def,
#define GR_BOOL(s, k, def, ...) .s.k = def,
#define GR_ENUM(s, k, def, ...) .s.k = def,
#include "config/keys.def"
    };

    return preset.mixer;
}

static json_t *value_of(const gr_config *cfg, const gr_key *key)
{
    switch (key->type) {
    case GR_KEY_INT: return json_integer(*GR_MEMBER(const int64_t, cfg, key));
    case GR_KEY_NUM: return json_real(*GR_MEMBER(const double, cfg, key));
    case GR_KEY_BOOL: return json_boolean(*GR_MEMBER(const bool, cfg, key));
    default: return json_string(*GR_MEMBER(const char *const, cfg, key));
    }
}

gr_status gr_options_json(const gr_cfg_mixer *o, json_t **tree)
{
    gr_status       st = GR_OK;
    const gr_config cfg = {.mixer = *o};
    json_t         *t = json_object();

    for (const gr_key *key = gr_keys; key < gr_keys + GR_N_KEYS; key++)
        if (is_option(key))
            GR_CHECK(!json_object_set_new(t, key->name, value_of(&cfg, key)), GR_ERR_NOMEM, "options of mixers");
    *tree = t;
    t = NULL;
out:
    json_decref(t);
    return st;
}

static bool has_type(const json_t *v, gr_key_type type)
{
    switch (type) {
    case GR_KEY_INT: return json_is_integer(v);
    case GR_KEY_NUM: return json_is_number(v);
    case GR_KEY_BOOL: return json_is_boolean(v);
    default: return json_is_string(v);
    }
}

/* As a user would write it. */
static void write_value(char *text, size_t n, const json_t *v)
{
    if (json_is_string(v))
        snprintf(text, n, "%s", json_string_value(v));
    else if (json_is_boolean(v))
        snprintf(text, n, "%s", json_is_true(v) ? "true" : "false");
    else if (json_is_integer(v))
        snprintf(text, n, "%lld", (long long)json_integer_value(v));
    else
        snprintf(text, n, "%.17g", json_number_value(v));
}

gr_status gr_options_parse(gr_cfg_mixer *o, const json_t *tree, const char *name)
{
    gr_status     st = GR_OK;
    gr_config     cfg = {.mixer = gr_options_default()};
    const char   *member;
    const json_t *v;
    char          where[GR_WHERE_MAX], text[GR_CLIP_MAX], clip[GR_CLIP_MAX];

    GR_CHECK(json_is_object(tree), GR_ERR_INPUT, "%s: graft: expected an object of options", name);
    json_object_foreach((json_t *)tree, member, v)
    {
        const gr_key *key = find(member);

        GR_CHECK(key, GR_ERR_INPUT, "%s: graft.%s: unknown option of mixers", name, gr_clip(clip, member));
        GR_CHECK(has_type(v, key->type), GR_ERR_INPUT, "%s: graft.%s: expected %s", name, member,
                 gr_type_name(key->type));
        write_value(text, sizeof text, v);
        snprintf(where, sizeof where, "%s: graft.%s = %s", name, member, text);
        if (gr_value_set(&cfg, key, text, where) != GR_OK) {
            st = GR_ERR_INPUT; /* of a model, not of a user's configuration */
            goto out;
        }
    }
    *o = cfg.mixer;
out:
    return st;
}

const char *gr_options_given(const gr_cfg_mixer *o, const char *type)
{
    const gr_config now = {.mixer = *o}, plain = {.mixer = gr_options_default()};
    const size_t    n = strlen(type);
    const char     *given = NULL;

    for (const gr_key *key = gr_keys; key < gr_keys + GR_N_KEYS && !given; key++) {
        if (!is_option(key) || strncmp(key->name, type, n) != 0 || key->name[n] != '_') continue;
        json_t *a = value_of(&now, key), *b = value_of(&plain, key);
        if (!json_equal(a, b)) given = key->name;
        json_decref(a);
        json_decref(b);
    }
    return given;
}
