#include "sweep/check.h"
#include "util/fs.h"
#include "util/mem.h"
#include "util/text.h"
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { STAGE_NAME = 32, CAUSE = 4096 };

/* ---- stages ----------------------------------------------------------------------------------------------------- */

/* A shared stage may be called PROGRAM_more, after its configuration: tokenize_lessons. */
static void program_of(char dst[STAGE_NAME], const char *stage)
{
    snprintf(dst, STAGE_NAME, "%.*s", (int)strcspn(stage, "_"), stage);
}

static gr_status check_stage_list(const gr_strings *list, const char *key, bool shared)
{
    gr_status st = GR_OK;

    for (int64_t i = 0; i < list->n; i++) {
        char        program[STAGE_NAME];
        const char *stage = list->v[i];

        program_of(program, stage);
        GR_CHECK(gr_program_find(shared ? program : stage) && !stage[strcspn(stage, " \t\r\n")], GR_ERR_CONFIG,
                 "%s: '%s' is no stage", key, stage);
        for (int64_t k = 0; k < i; k++)
            GR_CHECK(strcmp(list->v[k], stage) != 0, GR_ERR_CONFIG, "%s: '%s' twice", key, stage);
    }
out:
    return st;
}

static bool has(const gr_strings *list, const char *stage)
{
    for (int64_t i = 0; i < list->n; i++)
        if (!strcmp(list->v[i], stage)) return true;
    return false;
}

gr_status gr_stages_check(const gr_cfg_sweep *cfg)
{
    gr_status st = GR_OK;

    GR_TRY(check_stage_list(&cfg->stages, "sweep.stages", false));
    GR_TRY(check_stage_list(&cfg->shared, "sweep.shared", true));
    GR_CHECK(has(&cfg->stages, "convert"), GR_ERR_CONFIG,
             "sweep.stages: without 'convert' all members would be the same");
out:
    return st;
}

/* ---- members: what slurm/sweep_member.sh does, as far as configurations go -----------------------------------------
 */

/* Does the next stage start from what this one makes? */
static bool makes_model(const char *stage)
{
    static const char *const of[] = {"import", "convert", "align", "distill", "extend"};

    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (!strcmp(stage, of[i])) return true;
    return false;
}

static const char *weights_key(const char *stage)
{
    if (!strcmp(stage, "teacher")) return NULL; /* never the student */
    return !strcmp(stage, "extend") ? "start.weights" : "model.weights";
}

/* The command line of a stage: its configuration, and arguments. */
typedef struct command {
    char   config[GR_PATH_MAX], out[GR_PATH_MAX], weights[GR_PATH_MAX];
    char **argv;
    int    argc;
} command;

static gr_status add_keys(command *c, const gr_member *m, const char *stage)
{
    gr_status    st = GR_OK;
    const size_t n = strlen(stage);

    GR_TRY(gr_realloc(&c->argv, (uint64_t)c->argc + (uint64_t)m->keys.n, sizeof *c->argv, "arguments"));
    for (int64_t i = 0; i < m->keys.n; i++)
        if (!strncmp(m->keys.v[i], stage, n) && m->keys.v[i][n] == ':') c->argv[c->argc++] = m->keys.v[i] + n + 1;
out:
    return st;
}

static gr_status resolve(gr_config **cfg, const command *c, const char *stage, const char *who)
{
    gr_status st = GR_OK;
    char      cause[CAUSE] = "", program[STAGE_NAME];
    gr_cli    what;

    program_of(program, stage);
    gr_log_keep(cause, sizeof cause);
    st = gr_config_open(cfg, &what, program, c->argc, c->argv);
    gr_log_keep(NULL, 0);
    if (st != GR_OK) GR_FAIL(st, "%s, stage %s: %s", who, stage, cause);
out:
    return st;
}

/* `model`: the product that the stage starts from, or NULL: what its configuration says. */
static gr_status resolve_stage(gr_config **cfg, const gr_config *sweep, const gr_member *m, const char *stage,
                               const char *model)
{
    gr_status   st = GR_OK;
    command     c = {0};
    char        who[GR_MEMBER_NAME + 16];
    const char *weights = model ? weights_key(stage) : NULL;

    GR_TRY(gr_alloc(&c.argv, 4, sizeof *c.argv, "arguments"));
    GR_TRY(gr_path(c.config, "%s/%s.yaml", sweep->sweep.configs, stage));
    c.argv[c.argc++] = (char *)stage;
    c.argv[c.argc++] = c.config;
    if (m) {
        GR_TRY(gr_path(c.out, "run.out=%s/%s/%s", sweep->run.out, m->name, stage));
        c.argv[c.argc++] = c.out;
        if (weights) GR_TRY(gr_path(c.weights, "%s=%s/%s/%s", weights, sweep->run.out, m->name, model));
        if (weights) c.argv[c.argc++] = c.weights;
        GR_TRY(add_keys(&c, m, stage));
    }
    snprintf(who, sizeof who, m ? "member %s" : "shared", m ? m->name : "");
    GR_TRY(resolve(cfg, &c, stage, who));
out:
    gr_free(&c.argv);
    return st;
}

/* What the shared teacher writes, in counted memory; NULL when there is none. */
static gr_status shared_store(char **store, const gr_config *sweep)
{
    gr_status  st = GR_OK;
    gr_config *cfg = NULL;

    for (int64_t i = 0; i < sweep->sweep.shared.n; i++) {
        const char *stage = sweep->sweep.shared.v[i];

        GR_TRY(resolve_stage(&cfg, sweep, NULL, stage, NULL));
        if (!strcmp(stage, "teacher")) GR_TRY(gr_strdup(store, cfg->run.out));
        gr_config_close(&cfg);
    }
out:
    gr_config_close(&cfg);
    return st;
}

static gr_status check_member(const gr_config *sweep, const gr_member *m, const char *store)
{
    gr_status         st = GR_OK;
    gr_config        *cfg = NULL;
    const char       *model = NULL;
    const gr_strings *stages = &sweep->sweep.stages;

    for (int64_t i = 0; i < stages->n; i++) {
        const char *stage = stages->v[i];

        GR_TRY(resolve_stage(&cfg, sweep, m, stage, model));
        GR_CHECK(!store || strcmp(stage, "distill") != 0 || !strcmp(cfg->distill.logits, store), GR_ERR_CONFIG,
                 "member %s, stage distill: distill.logits is %s, but the shared teacher writes %s", m->name,
                 cfg->distill.logits, store);
        gr_config_close(&cfg);
        if (makes_model(stage)) model = stage;
    }
out:
    gr_config_close(&cfg);
    return st;
}

gr_status gr_members_check(const gr_members *all, const gr_config *cfg)
{
    gr_status   st = GR_OK;
    char       *store = NULL;
    const char *field[] = {cfg->run.out, cfg->sweep.configs, cfg->sweep.model};

    for (size_t i = 0; i < sizeof field / sizeof *field; i++)
        GR_CHECK(!strchr(field[i], '\n'), GR_ERR_CONFIG, "'%s' does not fit into a line of a table", field[i]);
    GR_TRY(shared_store(&store, cfg));
    for (int64_t i = 0; i < all->n; i++) GR_TRY(check_member(cfg, &all->member[i], store));
out:
    gr_free(&store);
    return st;
}
