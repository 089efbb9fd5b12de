#include "product/product.h"
#include "product/identity.h"
#include "store/json_seal.h"
#include "store/lock.h"
#include "util/mem.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { FORMAT = 1 };

/* ---- where things go ----------------------------------------------------------------------------------- */

static bool is_h5(const char *path)
{
    const size_t n = strlen(path);

    return n > 3 && !strcmp(path + n - 3, ".h5");
}

/* run.out without slashes at its end: names are made by adding to it. */
static gr_status place(gr_product *p, const gr_run *run)
{
    gr_status st = GR_OK;
    size_t    n;

    memset(p, 0, sizeof *p);
    p->lock = -1;
    p->run = run;
    GR_TRY(gr_path(p->out, "%s", run->cfg->run.out));
    for (n = strlen(p->out); n > 1 && p->out[n - 1] == '/'; n--) p->out[n - 1] = 0;
    GR_TRY(gr_path(p->lock_path, "%s.lock", p->out));
out:
    return st;
}

/* All of run.out, a file in it, or a file that is it. */
static gr_status place_product(gr_product *p, const char *name)
{
    gr_status  st = GR_OK;
    const bool whole = !name, file = name && !strcmp(name, "weights.h5") && is_h5(p->out);

    GR_CHECK0(!file || !strstr(gr_program_find(p->run->program)->sections, "checkpoint"), GR_ERR_CONFIG,
              "run.out = %s: training wants a directory, for checkpoints beside the weights", p->out);
    if (whole)
        GR_TRY(gr_path(p->path, "%s.partial", p->out));
    else
        GR_TRY(gr_path(p->path, file ? "%s" : "%s/%s", p->out, name));
    GR_TRY(gr_path(p->record, file ? "%s.json" : "%s/graft.json", p->out));
    p->whole = whole;
out:
    return st;
}

/* ---- what is there already [rank 0] ------------------------------------------------------------------- */

static json_t *paths_of(const gr_input_key *key)
{
    json_t *list;

    if (!key->pattern) return json_string(key->path.v[0]);
    list = json_array();
    for (int64_t i = 0; i < key->path.n; i++) json_array_append_new(list, json_string(key->path.v[i]));
    return list;
}

static gr_status list_inputs(gr_product *p)
{
    gr_status    st = GR_OK;
    gr_input_key key[GR_MAX_INPUTS];
    gr_identity  id;
    const int    n = gr_config_inputs(p->run->cfg, p->run->program, key);

    p->inputs = json_object();
    for (int i = 0; i < n; i++) {
        GR_TRY(gr_identify_input(&id, &key[i]));
        GR_CHECK(!json_object_set_new(p->inputs, key[i].key,
                                      json_pack("{s:o, s:s}", "path", paths_of(&key[i]), "content", id.hex)),
                 GR_ERR_NOMEM, "list of inputs");
    }
    GR_TRY(gr_json_dump(p->inputs, 0, &p->inputs_json));
    p->by.inputs_json = p->inputs_json;
out:
    return st;
}

static gr_status same_inputs(const gr_product *p, const json_t *then)
{
    gr_status   st = GR_OK;
    const char *key, *was, *is;
    json_t     *input;

    json_object_foreach(p->inputs, key, input)
    {
        GR_TRY(gr_json_get_str(json_object_get(then, key), p->record, "content", &was));
        GR_TRY(gr_json_get_str(input, p->record, "content", &is));
        if (!*is)
            gr_log("%s is gone since %s was made", key, p->out);
        else
            GR_CHECK(!strcmp(was, is), GR_ERR_INPUT,
                     "%s changed since %s was made: content %s then, %s now; choose another run.out, or remove it", key,
                     p->out, was, is);
    }
out:
    return st;
}

/* Is the product still what the record says? One that is gone is made again. */
static gr_status same_product(const gr_product *p, const json_t *record, bool *there)
{
    gr_status   st = GR_OK;
    const char *path = p->whole ? p->out : p->path, *was;
    gr_identity is;

    GR_TRY(gr_json_get_str(record, p->record, "content", &was));
    st = gr_identify(&is, path);
    if (st != GR_OK) gr_log("%s was complete and is damaged now: remove it, or choose another run.out", p->out);
    GR_TRY(st);
    *there = *is.hex || p->whole;
    GR_CHECK(!*there || !strcmp(is.hex, was), GR_ERR_INPUT,
             "%s is not what was made: content %s, but %s says %s; remove %s, or choose another run.out", path, is.hex,
             p->record, was, p->out);
    if (!*there) gr_log("%s is gone: it is made again", path);
out:
    return st;
}

static gr_status read_record(const gr_product *p, json_t **record)
{
    gr_status st = GR_OK;
    char     *text = NULL;
    uint64_t  n = 0;
    int64_t   format;

    GR_TRY(gr_read_file(p->record, GR_JSON_SEAL_LIMIT, &text, &n));
    GR_TRY(gr_json_unseal(text, n, p->record, record));
    GR_TRY(gr_json_get_int(*record, p->record, "format", FORMAT, FORMAT, &format));
out:
    gr_free(&text);
    return st;
}

static gr_status look(gr_product *p)
{
    gr_status   st = GR_OK;
    json_t     *record = NULL;
    const char *program, *config;

    if (!gr_exists(p->record)) {
        GR_CHECK(!p->whole || !gr_exists(p->out), GR_ERR_CONFIG,
                 "%s exists and is no product of Graft's; choose another run.out", p->out);
        goto out;
    }
    GR_TRY(read_record(p, &record));
    GR_TRY(gr_json_get_str(record, p->record, "program", &program));
    GR_CHECK(!strcmp(program, p->run->program), GR_ERR_CONFIG,
             "%s is the product of graft-%s; choose another run.out, or remove it", p->out, program);
    GR_TRY(gr_json_get_str(record, p->record, "config", &config));
    GR_TRY(gr_config_same(p->run->cfg, p->run->program, config, p->out));
    GR_TRY(same_product(p, record, &p->finished));
    if (p->finished) GR_TRY(same_inputs(p, json_object_get(record, "inputs")));
out:
    json_decref(record);
    return st;
}

/* ---- taking it [rank 0] --------------------------------------------------------------------------------- */

static gr_status lock(gr_product *p)
{
    gr_status st = GR_OK;
    char      dir[GR_PATH_MAX];

    GR_TRY(gr_dirname(dir, p->out));
    GR_TRY(gr_mkdirs(dir));
    GR_TRY(gr_lock_take(&p->lock, p->lock_path));
    GR_TRY(gr_lock_sign(p->lock, p->lock_path, p->run->program));
out:
    return st;
}

/* Files that a killed run was writing: .tmp-NAME-PID (util/fs.h). Of a product that is a file only its own; the
 * directory is not ours. */
static gr_status remove_temporaries(const gr_product *p, const char *dir)
{
    gr_status   st = GR_OK;
    char      **name = NULL, path[GR_PATH_MAX], prefix[GR_PATH_MAX];
    const char *slash = strrchr(p->out, '/');
    int64_t     n = 0;

    if (strcmp(p->path, p->out) != 0)
        GR_TRY(gr_path(prefix, ".tmp-"));
    else
        GR_TRY(gr_path(prefix, ".tmp-%s-", slash ? slash + 1 : p->out));
    GR_TRY(gr_list(dir, &name, &n));
    for (int64_t i = 0; i < n; i++) {
        if (strncmp(name[i], prefix, strlen(prefix)) != 0) continue;
        GR_TRY(gr_path(path, "%s/%s", dir, name[i]));
        GR_TRY(gr_remove_tree(path));
    }
out:
    gr_names_free(&name, n);
    return st;
}

/* Under the lock: what a record claims is no longer so, and what a killed run left goes. */
static gr_status begin(const gr_product *p)
{
    gr_status st = GR_OK;
    char      dir[GR_PATH_MAX];

    GR_CHECK(!unlink(p->record) || errno == ENOENT || errno == ENOTDIR, GR_ERR_IO, "%s: %s", p->record,
             strerror(errno));
    if (p->whole) {
        GR_TRY(gr_remove_tree(p->path));
        GR_TRY(gr_mkdirs(p->path));
    } else {
        GR_TRY(gr_dirname(dir, p->path));
        GR_TRY(gr_mkdirs(dir));
        GR_TRY(remove_temporaries(p, dir));
    }
out:
    return st;
}

/* What a twin made while this run waited for the lock counts. */
static gr_status take(gr_product *p)
{
    gr_status st = GR_OK;

    GR_TRY(lock(p));
    GR_TRY(look(p));
    if (!p->finished) GR_TRY(begin(p));
out:
    return st;
}

/* ---- all ranks ------------------------------------------------------------------------------------------- */

gr_status gr_product_open(gr_product *p, const gr_run *run, const char *name)
{
    gr_status  st = GR_OK;
    const bool first = gr_comm_rank(run->comm) == 0;

    GR_TRY(place(p, run));
    GR_TRY(place_product(p, name));
    p->by = (gr_provenance){.program = run->program,
                            .version = gr_version(),
                            .commit = gr_commit(),
                            .created = gr_utc(),
                            .config = run->config_text,
                            .inputs_json = "{}"};
    if (first) st = list_inputs(p);
    if (first && st == GR_OK) st = look(p);
    if (first && st == GR_OK && !p->finished) st = take(p);
    GR_TRY(gr_agree(run->comm, st));
    gr_bcast(run->comm, &p->finished, sizeof p->finished, 0);
    if (p->finished) gr_log0("%s is complete: nothing to do", p->out);
out:
    return st;
}

static gr_status write_record(const gr_product *p)
{
    gr_status   st = GR_OK;
    gr_identity id;
    json_t     *record = NULL;
    char       *text = NULL, path[GR_PATH_MAX];
    uint64_t    n = 0;

    GR_TRY(gr_identify(&id, p->path));
    record = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:O}", "format", FORMAT, "program", p->by.program,
                       "version", p->by.version, "commit", p->by.commit, "created", p->by.created, "config",
                       p->by.config, "content", id.hex, "inputs", p->inputs);
    GR_CHECK(record, GR_ERR_NOMEM, "%s", p->record);
    GR_TRY(gr_json_seal(record, &text, &n));
    if (p->whole) {
        GR_TRY(gr_path(path, "%s/graft.json", p->path));
        GR_TRY(gr_write_file(path, text, n));
        GR_TRY(gr_publish(p->path, p->out));
    } else {
        GR_TRY(gr_write_file(p->record, text, n));
    }
out:
    gr_free(&text);
    json_decref(record);
    return st;
}

gr_status gr_product_finish(gr_product *p)
{
    const gr_status st = gr_comm_rank(p->run->comm) == 0 ? write_record(p) : GR_OK;

    gr_lock_remove(&p->lock, p->lock_path);
    return gr_agree(p->run->comm, st);
}

/* A stage that failed leaves no directory that it did not use, and no half of a whole one. */
static void drop(const gr_product *p)
{
    if (p->whole && gr_remove_tree(p->path) != GR_OK) gr_log("%s: left behind", p->path);
    if (*p->record && !p->whole) rmdir(p->out); /* only if it is empty */
}

void gr_product_close(gr_product *p)
{
    if (!p->run) return;
    if (p->lock >= 0) drop(p);
    gr_lock_remove(&p->lock, p->lock_path);
    json_decref(p->inputs);
    gr_free(&p->inputs_json);
    p->run = NULL;
}

gr_status gr_product_lock(gr_product *p, const gr_run *run)
{
    gr_status st = GR_OK;

    GR_TRY(place(p, run));
    GR_TRY(gr_agree(run->comm, gr_comm_rank(run->comm) == 0 ? lock(p) : GR_OK));
out:
    return st;
}

gr_status gr_same_config(const gr_run *run, const char *then, const char *what)
{
    return gr_agree(run->comm,
                    gr_comm_rank(run->comm) == 0 ? gr_config_same(run->cfg, run->program, then, what) : GR_OK);
}
