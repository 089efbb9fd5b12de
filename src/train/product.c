#include "train/product.h"
#include "store/h5.h"
#include "store/seal.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/mem.h"
#include <string.h>

/* Keys that cannot change the result. */
static bool indifferent(const char *line)
{
    static const char *const key[] = {"out:", "threads:", "log_every:", "every:", "keep:",
                                      "async:", "minutes:", "tokens:"};

    line += strspn(line, " ");
    if (*line == '#' || *line == '\n' || !*line) return true;
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        if (!strncmp(line, key[i], strlen(key[i]))) return true;
    return false;
}

static const char *next_line(const char *p)
{
    const char *end = strchr(p, '\n');

    return end ? end + 1 : p + strlen(p);
}

static const char *skip_indifferent(const char *p)
{
    while (*p && indifferent(p)) p = next_line(p);
    return p;
}

gr_status gr_same_config(const char *now, const char *then, const char *what)
{
    gr_status st = GR_OK;

    for (;;) {
        now = skip_indifferent(now);
        then = skip_indifferent(then);
        const int n = (int)strcspn(now, "\n"), m = (int)strcspn(then, "\n");
        GR_CHECK0(
            n == m && !strncmp(now, then, (size_t)n), GR_ERR_CONFIG,
            "%s was made with another configuration: there '%.*s', now '%.*s'; choose another run.out, or remove it",
            what, m, then, n, now);
        if (!*now) break;
        now = next_line(now);
        then = next_line(then);
    }
out:
    return st;
}

/* Made with this very configuration? */
static gr_status look(gr_product *p, const gr_run *run)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    char     *config = NULL;
    int64_t   there = gr_comm_rank(run->comm) == 0 && gr_exists(p->path);

    gr_max_i64(run->comm, &there, 1);
    if (!there) goto out;
    GR_TRY(gr_h5_open_all(run->comm, &f, p->path, "weights"));
    GR_TRY(gr_agree(run->comm, gr_h5_get_str(f, NULL, "config", &config)));
    GR_TRY(gr_same_config(run->config_text, config, p->path));
    gr_log0("%s is complete: nothing to do", p->path);
    p->finished = true;
out:
    gr_free(&config);
    gr_h5_close(&f);
    return st;
}

static bool is_h5(const char *path)
{
    const size_t n = strlen(path);

    return n > 3 && !strcmp(path + n - 3, ".h5");
}

/* What it is made from: the path, and the seal when that is a file of ours (a stage's directory means its weights.h5).
 */
static gr_status describe(const char *input, char **json)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];
    gr_seal   seal = {.id = ""};
    json_t   *o = NULL;

    GR_TRY(gr_path(path, "%s/weights.h5", input));
    if (!gr_exists(path)) GR_TRY(gr_path(path, "%s", input));
    if (is_h5(path)) GR_TRY(gr_seal_read(path, "weights", &seal));
    o = json_pack("{s:{s:s, s:s}}", "from", "path", path, "seal", seal.id);
    GR_TRY(gr_json_dump(o, 0, json));
out:
    json_decref(o);
    return st;
}

gr_status gr_product_open(gr_product *p, const gr_run *run, const char *input)
{
    gr_status   st = GR_OK;
    const char *out = run->cfg->run.out;
    const bool  file = is_h5(out);
    char        dir[GR_PATH_MAX];

    memset(p, 0, sizeof *p);
    GR_CHECK0(!file || !strstr(gr_program_find(run->program)->sections, "checkpoint"), GR_ERR_CONFIG,
              "run.out = %s: training wants a directory, for checkpoints beside the weights", out);
    st = gr_path(p->path, "%s%s", out, file ? "" : "/weights.h5");
    GR_TRY(gr_agree(run->comm, st));
    p->by = (gr_provenance){.program = run->program,
                            .version = gr_version(),
                            .commit = gr_commit(),
                            .created = gr_utc(),
                            .config = run->config_text,
                            .inputs_json = "{}"};
    GR_TRY(look(p, run));
    if (gr_comm_rank(run->comm) == 0) { /* the one that writes attributes */
        st = describe(input, &p->inputs);
        p->by.inputs_json = p->inputs;
        if (st == GR_OK) st = gr_dirname(dir, p->path);
        if (st == GR_OK) st = gr_mkdirs(dir);
    }
    GR_TRY(gr_agree(run->comm, st));
out:
    return st;
}

void gr_product_close(gr_product *p)
{
    gr_free(&p->inputs);
}
