#include "config/room.h"
#include <string.h>

/* What keys.def says of keys, beside their values. */
#define GR_FREE(s, k) offsetof(gr_config, s.k),
static const size_t free_key[] = {
#include "config/keys.def"
};
#define GR_INPUT(s, k) offsetof(gr_config, s.k),
static const size_t input_key[] = {
#include "config/keys.def"
};

static bool among(const gr_key *key, const size_t *at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (at[i] == key->at) return true;
    return false;
}

static gr_status compare(const gr_config *now, const gr_config *then, const gr_key *key, const char *what)
{
    gr_status st = GR_OK;
    gr_text   a = {0}, b = {0};
    char      was[GR_CLIP_MAX], is[GR_CLIP_MAX];

    gr_value_print(&a, then, key);
    gr_value_print(&b, now, key);
    GR_TRY(a.st);
    GR_TRY(b.st);
    GR_CHECK(!strcmp(a.s, b.s), GR_ERR_CONFIG,
             "%s was made with another configuration: %s was%s, now it is%s; choose another run.out, or remove it",
             what, key->path, gr_clip(was, a.s), gr_clip(is, b.s));
out:
    gr_text_close(&b);
    gr_text_close(&a);
    return st;
}

gr_status gr_config_same(const gr_config *now, const char *program, const char *then, const char *what)
{
    gr_status         st = GR_OK;
    const gr_program *prog = gr_program_find(program);
    gr_config        *old = NULL;

    GR_TRY(gr_config_from_text(&old, program, what, then, strlen(then)));
    for (const gr_key *key = gr_keys; key < gr_keys + GR_N_KEYS; key++)
        if (gr_program_uses(prog, key->section) && !among(key, free_key, sizeof free_key / sizeof *free_key))
            GR_TRY(compare(now, old, key, what));
out:
    gr_config_close(&old);
    return st;
}

int gr_config_inputs(const gr_config *cfg, const char *program, gr_input_key out[GR_MAX_INPUTS])
{
    const gr_program *prog = gr_program_find(program);
    int               n = 0;

    for (const gr_key *key = gr_keys; key < gr_keys + GR_N_KEYS && n < GR_MAX_INPUTS; key++) {
        if (!gr_program_uses(prog, key->section) || !among(key, input_key, sizeof input_key / sizeof *input_key))
            continue;
        if (key->type == GR_KEY_STRS)
            out[n++] = (gr_input_key){key->path, *GR_MEMBER(const gr_strings, cfg, key), true};
        else if (**GR_MEMBER(char *, cfg, key))
            out[n++] = (gr_input_key){key->path, {GR_MEMBER(char *, cfg, key), 1}, false};
    }
    return n;
}
