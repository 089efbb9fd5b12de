#include "config/room.h"
#include "util/mem.h"
#include <stdio.h>
#include <string.h>

static gr_status defaults(gr_config *cfg)
{
    gr_status st = GR_OK;

    for (int i = 0; i < GR_N_KEYS; i++)
        if (gr_keys[i].preset && gr_keys[i].type != GR_KEY_STRS) /* a list that may be left out begins empty */
            GR_TRY(gr_value_set(cfg, &gr_keys[i], gr_keys[i].preset, gr_keys[i].path));
out:
    return st;
}

/* Every missing key is named, not only the first. */
static gr_status complete(const gr_config *cfg, const gr_program *program, const char *name)
{
    gr_status st = GR_OK;

    for (const gr_key *key = gr_keys; key < gr_keys + GR_N_KEYS; key++)
        if (gr_program_uses(program, key->section) && !gr_value_present(cfg, key))
            st = gr_fail(__FILE__, __LINE__, GR_ERR_CONFIG, "%s: %s must be given: %s", name, key->path, key->doc);
    return st;
}

/* section.key=value */
static gr_status apply_argument(gr_config *cfg, const gr_program *program, const char *arg)
{
    gr_status         st = GR_OK;
    const gr_section *section = NULL;
    const gr_key     *key = NULL;
    const char       *value = strchr(arg, '=') + 1;
    const size_t      n = (size_t)(value - 1 - arg);
    char              clip[GR_CLIP_MAX], where[GR_CLIP_MAX + 16], path[GR_CLIP_MAX], *name;

    snprintf(where, sizeof where, "argument '%s'", gr_clip(clip, arg));
    snprintf(path, sizeof path, "%.*s", n < sizeof path ? (int)n : (int)sizeof path - 1, arg);
    name = strchr(path, '.');
    GR_CHECK(name, GR_ERR_CONFIG, "%s: expected section.key=value", where);
    *name++ = 0;
    GR_TRY(gr_section_find(&section, program, false, path, where));
    GR_TRY(gr_key_find(&key, program, section->name, name, where));
    if (key->type == GR_KEY_STRS && *value == '[')
        GR_TRY(gr_read_yaml_list(cfg, key, value, where));
    else
        GR_TRY(gr_value_set(cfg, key, value, where));
out:
    return st;
}

/* A file may be called a=b only below a directory, as in ./a=b. */
static bool is_assignment(const char *arg)
{
    const size_t n = strcspn(arg, "=/");

    return arg[n] == '=';
}

/* The list that plain arguments go to: `paths` of the program's own section; NULL when it has none. */
static const gr_key *operands_of(const gr_program *program)
{
    for (const gr_key *key = gr_keys; key < gr_keys + GR_N_KEYS; key++)
        if (!strcmp(key->section, program->name) && !strcmp(key->name, "paths") && key->type == GR_KEY_STRS) return key;
    return NULL;
}

static bool is_yaml(const char *arg)
{
    const size_t n = strlen(arg);

    return (n > 5 && !strcmp(arg + n - 5, ".yaml")) || (n > 4 && !strcmp(arg + n - 4, ".yml"));
}

const char *gr_arguments_of(const gr_program *program)
{
    return operands_of(program) ? "[CONFIG.yaml] [section.key=value ...] PATH ..."
                                : "[CONFIG.yaml] [section.key=value ...]";
}

/* Neither an option, nor key=value, nor the configuration. */
static bool is_operand(const gr_program *program, const char *arg)
{
    return operands_of(program) && *arg != '-' && !is_assignment(arg) && !is_yaml(arg);
}

/* Plain arguments replace the list that the configuration gives. */
static gr_status apply_operands(gr_config *cfg, const gr_program *program, int argc, char *const *argv)
{
    gr_status     st = GR_OK;
    const gr_key *key = operands_of(program);
    bool          first = true;

    for (int i = 1; i < argc; i++) {
        if (!is_operand(program, argv[i])) continue;
        if (first) gr_value_clear(cfg, key);
        GR_TRY(gr_value_append(cfg, key, argv[i], "command line"));
        first = false;
    }
out:
    return st;
}

/* What the command line asks for; *path is the file, or NULL. */
static gr_status scan(const gr_program *program, int argc, char *const *argv, gr_cli *what, const char **path)
{
    gr_status st = GR_OK;

    *what = GR_CLI_RUN;
    *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            *what = GR_CLI_HELP;
            goto out;
        }
        if (!strcmp(argv[i], "--version")) {
            *what = GR_CLI_VERSION;
            goto out;
        }
    }
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--print-config")) {
            *what = GR_CLI_PRINT;
        } else if (argv[i][0] == '-') {
            GR_FAIL(GR_ERR_CONFIG, "argument '%s': unknown option (--help, --version, --print-config)", argv[i]);
        } else if (!is_assignment(argv[i]) && !is_operand(program, argv[i])) {
            GR_CHECK(!*path, GR_ERR_CONFIG, "argument '%s': a second configuration file after %s", argv[i], *path);
            *path = argv[i];
        }
    }
    GR_CHECK(argc > 1, GR_ERR_CONFIG, "%s: %s %s; --help lists all keys",
             operands_of(program) ? "nothing to do" : "no configuration", program->command,
             operands_of(program) ? "PATH ..." : "CONFIG.yaml [section.key=value ...]");
out:
    return st;
}

/* A gr_config with the defaults, and the program it is for. */
static gr_status begin(gr_config **cfg, const gr_program **program, const char *name)
{
    gr_status st = GR_OK;

    *program = gr_program_find(name);
    GR_CHECK(*program, GR_ERR_ARG, "no program '%s' in programs.def", name);
    GR_TRY(gr_alloc(cfg, 1, sizeof **cfg, "configuration"));
    GR_TRY(defaults(*cfg));
out:
    return st;
}

gr_status gr_config_open(gr_config **cfg, gr_cli *what, const char *program, int argc, char *const *argv)
{
    gr_status         st = GR_OK;
    gr_config        *c = NULL;
    const gr_program *prog = NULL;
    const char       *path = NULL;
    gr_cli            asked = GR_CLI_RUN;

    GR_TRY(begin(&c, &prog, program));
    GR_TRY(scan(prog, argc, argv, &asked, &path));
    if (asked == GR_CLI_RUN || asked == GR_CLI_PRINT) {
        if (path) GR_TRY(gr_read_yaml(c, prog, path));
        for (int i = 1; i < argc; i++)
            if (argv[i][0] != '-' && is_assignment(argv[i])) GR_TRY(apply_argument(c, prog, argv[i]));
        GR_TRY(apply_operands(c, prog, argc, argv));
        GR_TRY(complete(c, prog, path ? path : "command line"));
        *cfg = c;
        c = NULL;
    } else {
        *cfg = NULL;
    }
    *what = asked;
out:
    gr_config_close(&c);
    return st;
}

gr_status gr_config_from_text(gr_config **cfg, const char *program, const char *name, const char *text, uint64_t n)
{
    gr_status         st = GR_OK;
    gr_config        *c = NULL;
    const gr_program *prog = NULL;

    GR_TRY(begin(&c, &prog, program));
    GR_TRY(gr_read_yaml_text(c, prog, name, text, n));
    GR_TRY(complete(c, prog, name));
    *cfg = c;
    c = NULL;
out:
    gr_config_close(&c);
    return st;
}

void gr_config_close(gr_config **cfg)
{
    if (!*cfg) return;
    for (const gr_key *key = gr_keys; key < gr_keys + GR_N_KEYS; key++) {
        if (key->type == GR_KEY_STR) gr_free(GR_MEMBER(char *, *cfg, key));
        if (key->type == GR_KEY_STRS) gr_value_clear(*cfg, key);
    }
    gr_free(cfg);
}
