#include "config/room.h"
#include <string.h>

/* An odd default or range in keys.def does not compile, or does not pass tests/unit/test_config.c. */
#define KEY(s, k, kind) .section = #s, .name = #k, .path = #s "." #k, .type = kind, .at = offsetof(gr_config, s.k)
#define GR_INT(s, k, def, lo, hi, u, d)                                                                                \
    {KEY(s, k, GR_KEY_INT), .preset = #def, .low = lo, .high = hi, .unit = u, .doc = d},
#define GR_NUM(s, k, def, lo, hi, u, d)                                                                                \
    {KEY(s, k, GR_KEY_NUM), .preset = #def, .least = lo, .most = hi, .unit = u, .doc = d},
#define GR_BOOL(s, k, def, d)     {KEY(s, k, GR_KEY_BOOL), .preset = #def, .unit = "", .doc = d},
#define GR_STR(s, k, def, d)      {KEY(s, k, GR_KEY_STR), .preset = def, .unit = "", .doc = d},
#define GR_STRS(s, k, def, d)     {KEY(s, k, GR_KEY_STRS), .preset = def, .unit = "", .doc = d},
#define GR_ENUM(s, k, def, of, d) {KEY(s, k, GR_KEY_ENUM), .preset = def, .choices = of, .unit = "", .doc = d},
const gr_key gr_keys[GR_N_KEYS] = {
#include "config/keys.def"
};
#undef KEY

#define GR_SECTION(s, d) {#s, d},
const gr_section gr_sections[GR_N_SECTIONS] = {
#include "config/keys.def"
};

#define GR_PROGRAM(p, d, uses) {#p, "graft-" #p, d, uses},
static const gr_program programs[] = {
#include "config/programs.def"
};
#undef GR_PROGRAM

const gr_program *gr_program_find(const char *name)
{
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++)
        if (!strcmp(programs[i].name, name)) return &programs[i];
    return NULL;
}

const char *gr_config_key(const char *program, const char *name, int i)
{
    const gr_program *prog = gr_program_find(program);

    for (const gr_key *key = gr_keys; prog && key < gr_keys + GR_N_KEYS; key++)
        if (gr_program_uses(prog, key->section) && !strcmp(key->name, name) && i-- == 0) return key->path;
    return NULL;
}

bool gr_program_uses(const gr_program *program, const char *section)
{
    const size_t n = strlen(section);

    for (const char *p = program->sections; *p;) {
        const size_t word = strcspn(p, " ");
        if (word == n && !strncmp(p, section, n)) return true;
        p += word;
        p += strspn(p, " ");
    }
    return false;
}

/* Levenshtein's distance; FAR when either word is too long to be a key. */
enum { WORD = 48, FAR = 99, NEAR = 2 };

static int distance(const char *a, const char *b)
{
    int       row[WORD + 1];
    const int n = (int)strlen(b);

    if (strlen(a) > WORD || n > WORD) return FAR;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            const int change = diagonal + (a[i - 1] != b[j - 1]);
            const int skip = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
            diagonal = row[j];
            row[j] = change < skip ? change : skip;
        }
    }
    return row[n];
}

gr_status gr_section_find(const gr_section **out, const gr_program *program, bool any, const char *section,
                          const char *where)
{
    gr_status   st = GR_OK;
    const char *near = NULL;
    int         best = NEAR + 1;
    char        clip[GR_CLIP_MAX];

    for (int i = 0; i < GR_N_SECTIONS; i++) {
        const int d = distance(section, gr_sections[i].name);
        if (d == 0) {
            GR_CHECK(any || gr_program_uses(program, section), GR_ERR_CONFIG,
                     "%s: section '%s' is not used by %s (it uses: %s)", where, section, program->command,
                     program->sections);
            *out = &gr_sections[i];
            goto out;
        }
        if (d < best && gr_program_uses(program, gr_sections[i].name)) {
            best = d;
            near = gr_sections[i].name;
        }
    }
    GR_CHECK(near, GR_ERR_CONFIG, "%s: unknown section '%s' (%s uses: %s)", where, gr_clip(clip, section),
             program->command, program->sections);
    GR_FAIL(GR_ERR_CONFIG, "%s: unknown section '%s' (did you mean '%s'?)", where, gr_clip(clip, section), near);
out:
    return st;
}

gr_status gr_key_find(const gr_key **out, const gr_program *program, const char *section, const char *name,
                      const char *where)
{
    gr_status   st = GR_OK;
    const char *near = NULL;
    int         best = FAR;
    char        clip[GR_CLIP_MAX];

    for (int i = 0; i < GR_N_KEYS; i++) {
        const bool here = !strcmp(section, gr_keys[i].section);
        const int  d = distance(name, gr_keys[i].name);
        if (here && d == 0) {
            *out = &gr_keys[i];
            goto out;
        }
        /* A misspelt key of this section, else the same key of another that the program uses. */
        if (here ? d <= NEAR && d < best : d == 0 && best == FAR && gr_program_uses(program, gr_keys[i].section)) {
            best = here ? d : FAR - 1;
            near = gr_keys[i].path;
        }
    }
    GR_CHECK(near, GR_ERR_CONFIG, "%s: %s.%s: unknown key (--help lists them)", where, section, gr_clip(clip, name));
    GR_FAIL(GR_ERR_CONFIG, "%s: %s.%s: unknown key (did you mean %s?)", where, section, gr_clip(clip, name), near);
out:
    return st;
}
