#include "config/room.h"
#include "util/mem.h"
#include "util/text.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The shortest decimal of six digits or more that reads back as x. */
static void add_num(gr_text *t, double x)
{
    char s[40];

    for (int digits = 6; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, x);
        if (strtod(s, NULL) == x) break;
    }
    gr_text_add(t, "%s", s);
}

/* "integer, 1 to 1024 [tokens]", "integer >= 0 [steps]", "cpu | cuda", "string" */
static void add_type(gr_text *t, const gr_key *key)
{
    switch (key->type) {
    case GR_KEY_INT:
        if (key->high == INT64_MAX)
            gr_text_add(t, "integer >= %" PRId64, key->low);
        else
            gr_text_add(t, "integer, %" PRId64 " to %" PRId64, key->low, key->high);
        break;
    case GR_KEY_NUM:
        gr_text_add(t, "number, ");
        add_num(t, key->least);
        gr_text_add(t, " to ");
        add_num(t, key->most);
        break;
    case GR_KEY_BOOL: gr_text_add(t, "true | false"); break;
    case GR_KEY_STR: gr_text_add(t, "string"); break;
    case GR_KEY_STRS: gr_text_add(t, "list of strings"); break;
    case GR_KEY_ENUM:
        for (const char *p = key->choices; p && *p; p += strcspn(p, "|"), p += *p == '|')
            gr_text_add(t, "%s%.*s", p == key->choices ? "" : " | ", (int)strcspn(p, "|"), p);
        break;
    }
    if (*key->unit) gr_text_add(t, " [%s]", key->unit);
}

static void add_default(gr_text *t, const gr_key *key)
{
    if (!key->preset)
        gr_text_add(t, "must be given");
    else
        gr_text_add(t, "default %s", *key->preset ? key->preset : key->type == GR_KEY_STRS ? "[]" : "\"\"");
}

/* In quotes always, so that 'no', '1' or '' stay strings for every reader of YAML. */
static void add_string(gr_text *t, const char *s)
{
    gr_text plain = {0};

    gr_text_put(&plain, "", 0);
    for (; *s; s++) {
        if (s[0] == '$' && s[1] == '{') gr_text_put(&plain, "$", 1);
        gr_text_put(&plain, s, 1);
    }
    if (plain.st == GR_OK) gr_text_quote(t, plain.s);
    if (t->st == GR_OK) t->st = plain.st;
    gr_text_close(&plain);
}

void gr_value_print(gr_text *t, const gr_config *cfg, const gr_key *key)
{
    const gr_strings *list;

    switch (key->type) {
    case GR_KEY_INT: gr_text_add(t, " %" PRId64, *GR_MEMBER(int64_t, cfg, key)); break;
    case GR_KEY_NUM:
        gr_text_add(t, " ");
        add_num(t, *GR_MEMBER(double, cfg, key));
        break;
    case GR_KEY_BOOL: gr_text_add(t, *GR_MEMBER(bool, cfg, key) ? " true" : " false"); break;
    case GR_KEY_ENUM: gr_text_add(t, " %s", *GR_MEMBER(char *, cfg, key)); break;
    case GR_KEY_STR:
        gr_text_add(t, " ");
        add_string(t, *GR_MEMBER(char *, cfg, key));
        break;
    case GR_KEY_STRS:
        list = GR_MEMBER(gr_strings, cfg, key);
        if (list->n == 0) gr_text_add(t, " []");
        for (int64_t i = 0; i < list->n; i++) {
            gr_text_add(t, "\n    - ");
            add_string(t, list->v[i]);
        }
        break;
    }
}

gr_status gr_config_print(const gr_config *cfg, const char *program, char **text)
{
    gr_status         st = GR_OK;
    gr_text           t = {0};
    const gr_program *prog = gr_program_find(program);

    GR_CHECK(prog, GR_ERR_ARG, "no program '%s' in programs.def", program);
    gr_text_add(&t, "# %s: %s\n", prog->command, prog->doc);
    for (const gr_section *s = gr_sections; s < gr_sections + GR_N_SECTIONS; s++) {
        if (!gr_program_uses(prog, s->name)) continue;
        gr_text_add(&t, "\n# %s\n%s:\n", s->doc, s->name);
        for (const gr_key *key = gr_keys; key < gr_keys + GR_N_KEYS; key++) {
            if (strcmp(key->section, s->name) != 0) continue;
            gr_text_add(&t, "  # %s  (", key->doc);
            add_type(&t, key);
            gr_text_add(&t, "; ");
            add_default(&t, key);
            gr_text_add(&t, ")\n  %s:", key->name);
            gr_value_print(&t, cfg, key);
            gr_text_add(&t, "\n");
        }
    }
    GR_TRY(t.st);
    *text = t.s;
    t = (gr_text){0};
out:
    gr_text_close(&t);
    return st;
}

gr_status gr_config_help(const char *program, char **text)
{
    static const struct {
        gr_status   st;
        const char *doc;
    } ends[] = {{GR_OK, "done"},
                {GR_ERR_CONFIG, "wrong command line, configuration or input: do not requeue"},
                {GR_LOCKED, "another run holds the lock of this output"},
                {GR_STOP, "stopped at a checkpoint as asked (signal): requeue to go on"},
                {GR_ERR_SAVE, "a checkpoint could not be written"},
                {GR_ERR_IO, "failed; so is every other code"}};
    gr_status         st = GR_OK;
    gr_text           t = {0};
    const gr_program *prog = gr_program_find(program);

    GR_CHECK(prog, GR_ERR_ARG, "no program '%s' in programs.def", program);
    gr_text_add(&t,
                "%s: %s\n\n"
                "usage: mpirun -n RANKS %s %s\n"
                "       %s --print-config %s\n"
                "       %s --help | --version\n\n"
                "A value given as an argument wins over CONFIG.yaml, CONFIG.yaml over the file it names first as\n"
                "`base: other.yaml`, and that over the defaults. In strings ${NAME} is an environment variable.\n",
                prog->command, prog->doc, prog->command, gr_arguments_of(prog), prog->command, gr_arguments_of(prog),
                prog->command);
    for (const gr_section *s = gr_sections; s < gr_sections + GR_N_SECTIONS; s++) {
        if (!gr_program_uses(prog, s->name)) continue;
        gr_text_add(&t, "\n%s: %s\n", s->name, s->doc);
        for (const gr_key *key = gr_keys; key < gr_keys + GR_N_KEYS; key++) {
            if (strcmp(key->section, s->name) != 0) continue;
            gr_text_add(&t, "  %-26s ", key->path);
            add_type(&t, key);
            gr_text_add(&t, "; ");
            add_default(&t, key);
            gr_text_add(&t, "\n      %s\n", key->doc);
        }
    }
    gr_text_add(&t, "\nexit codes:\n");
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        gr_text_add(&t, "  %3d  %s\n", gr_exit_code(ends[i].st), ends[i].doc);
    GR_TRY(t.st);
    *text = t.s;
    t = (gr_text){0};
out:
    gr_text_close(&t);
    return st;
}
