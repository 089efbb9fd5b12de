/* From the paths that a user gives to tasks. [rank 0] */
#include "store/json_seal.h"
#include "util/mem.h"
#include "verify/room.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DEPTH = 64 };

gr_status gr_tasks_add(gr_tasks *u, gr_task_kind kind, int64_t member, const char *path, const char *file)
{
    gr_status   st = GR_OK;
    struct stat sb;
    char       *own = NULL;

    if (u->n == u->room) {
        u->room = u->room ? 2 * u->room : 256;
        GR_TRY(gr_realloc(&u->task, (uint64_t)u->room, sizeof *u->task, "tasks"));
    }
    GR_TRY(gr_strdup(&own, path));
    u->task[u->n++] =
        (gr_task){.kind = kind, .member = member, .bytes = stat(file, &sb) ? 0 : (int64_t)sb.st_size, .path = own};
out:
    return st;
}

void gr_tasks_close(gr_tasks *u)
{
    for (int64_t i = 0; i < u->n; i++) gr_free(&u->task[i].path);
    gr_free(&u->task);
}

/* ---- names -------------------------------------------------------------------------------------------------- */

static bool starts(const char *s, const char *lead)
{
    return !strncmp(s, lead, strlen(lead));
}

static bool ends(const char *s, const char *tail)
{
    const size_t n = strlen(s), k = strlen(tail);

    return n >= k && !strcmp(s + n - k, tail);
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* LEAD, digits, TAIL */
static bool numbered(const char *s, const char *lead, const char *tail)
{
    size_t digits;

    if (!starts(s, lead)) return false;
    s += strlen(lead);
    digits = strspn(s, "0123456789");
    return digits >= 5 && !strcmp(s + digits, tail);
}

/* What a run, alive or dead, keeps for itself. */
static const char *housekeeping(const char *name)
{
    if (starts(name, ".tmp-")) return "being written, or left by a run that died";
    if (starts(name, ".del-")) return "being deleted, or left by a run that died";
    if (starts(name, "bad-step-")) return "a damaged checkpoint that was set aside; nothing reads it";
    if (ends(name, ".partial")) return "an export that was not finished";
    return NULL;
}

/* ---- one directory -------------------------------------------------------------------------------------------- */

/* Its names; a recogniser takes those that it answers for, by making them empty. */
typedef struct listing {
    const char *dir;
    char      **name;
    int64_t     n;
} listing;

static bool holds(const listing *l, const char *name)
{
    for (int64_t i = 0; i < l->n; i++)
        if (!strcmp(l->name[i], name)) return true;
    return false;
}

static bool holds_numbered(const listing *l, const char *lead, const char *tail)
{
    for (int64_t i = 0; i < l->n; i++)
        if (numbered(l->name[i], lead, tail)) return true;
    return false;
}

static void take(listing *l, const char *name)
{
    for (int64_t i = 0; i < l->n; i++)
        if (!strcmp(l->name[i], name)) *l->name[i] = 0;
}

static void skip(listing *l)
{
    static const char *const own[] = {".lock", ".generation"};

    for (size_t i = 0; i < sizeof own / sizeof *own; i++) take(l, own[i]);
    for (int64_t i = 0; i < l->n; i++) /* the lock of what has the name without .lock; marks of verified checkpoints */
        if (ends(l->name[i], ".lock") || numbered(l->name[i], ".verified-", "")) *l->name[i] = 0;
}

/* An index or manifest, and, when it is sound, a task for every file that it lists, there or not. */
static gr_status see_store(gr_checker *k, gr_tasks *u, listing *l, gr_task_kind kind, const char *label,
                           const char *index)
{
    gr_status st = GR_OK;
    gr_text   facts = {0};
    char      path[GR_PATH_MAX], file[GR_PATH_MAX];
    bool      sound;

    GR_TRY(gr_path(path, "%s/%s", l->dir, index));
    st = gr_store_open(k, kind, l->dir);
    if (st == GR_OK) st = gr_store_facts(k, &facts);
    sound = st == GR_OK;
    GR_TRY(gr_judge(k, st, label, path, facts.s ? facts.s : ""));
    take(l, index);
    for (int64_t i = 0; sound && i < gr_store_members(k); i++) {
        GR_TRY(gr_store_path(k, i, file));
        GR_TRY(gr_tasks_add(u, kind, i, l->dir, file));
        take(l, base_of(file));
    }
out:
    gr_text_close(&facts);
    return st;
}

/* The kind of an index whose files are all gone. */
static gr_task_kind kind_of_index(gr_checker *k, const char *dir)
{
    char        path[GR_PATH_MAX], *text = NULL;
    uint64_t    n = 0;
    json_t     *tree = NULL;
    const char *kind = NULL;
    bool        logits;

    if (gr_path(path, "%s/index.json", dir) == GR_OK && gr_read_file(path, GR_JSON_SEAL_LIMIT, &text, &n) == GR_OK &&
        gr_json_unseal(text, n, path, &tree) == GR_OK)
        kind = json_string_value(json_object_get(tree, "kind"));
    logits = kind && !strcmp(kind, "logits");
    *k->cause = 0; /* whoever opens it says what is wrong */
    json_decref(tree);
    gr_free(&text);
    return logits ? GR_TASK_LOGITS : GR_TASK_SHARD;
}

static gr_status see_stores(gr_checker *k, gr_tasks *u, listing *l)
{
    gr_status  st = GR_OK;
    const bool shards = holds_numbered(l, "shard-", ".h5"), logits = holds_numbered(l, "logits-", ".h5");

    if (holds(l, "manifest.json") || numbered(base_of(l->dir), "step-", ""))
        GR_TRY(see_store(k, u, l, GR_TASK_CKPT, "checkpoint", "manifest.json"));
    if (logits || (!shards && holds(l, "index.json") && kind_of_index(k, l->dir) == GR_TASK_LOGITS))
        GR_TRY(see_store(k, u, l, GR_TASK_LOGITS, "logits", "index.json"));
    else if (shards || holds(l, "index.json"))
        GR_TRY(see_store(k, u, l, GR_TASK_SHARD, "shards", "index.json"));
out:
    return st;
}

static bool is_model_file(const char *name)
{
    return starts(name, "model") && (ends(name, ".safetensors") || ends(name, ".safetensors.index.json"));
}

static gr_status see_export(gr_checker *k, gr_tasks *u, listing *l)
{
    gr_status st = GR_OK;
    bool      any = holds(l, "files.json");

    for (int64_t i = 0; i < l->n; i++) any = any || is_model_file(l->name[i]);
    if (!any) goto out;
    GR_TRY(gr_check_export(k, u, l->dir));
    for (int64_t i = 0; i < l->n; i++)
        if (is_model_file(l->name[i])) *l->name[i] = 0;
    take(l, "files.json");
    take(l, "config.json");
    take(l, "tokenizer.json");
out:
    return st;
}

/* A stage writes its record last: what has none is not finished. Weights alone are a model that someone put there. */
static gr_status see_record(gr_checker *k, listing *l)
{
    static const char *const product[] = {"index.json", "results.json", "files.json", "config.yaml"};
    gr_status                st = GR_OK;
    bool                     any = false;
    char                     path[GR_PATH_MAX];

    GR_TRY(gr_path(path, "%s/graft.json", l->dir));
    for (size_t i = 0; i < sizeof product / sizeof *product; i++)
        any = any || (holds(l, product[i]) && (strcmp(product[i], "config.yaml") != 0 || holds(l, "weights.h5")));
    if (holds(l, "graft.json"))
        GR_TRY(gr_check_record(k, path));
    else if (any)
        GR_TRY(gr_find(k, GR_MISSING, "record", path, "written last: the stage is not finished, or it was removed"));
    take(l, "graft.json");
out:
    return st;
}

static gr_status see_run(gr_tasks *u, listing *l)
{
    static const char *const part[] = {"weights.h5", "config.yaml", "metrics.jsonl"};
    gr_status                st = GR_OK;
    bool                     any = holds(l, "ckpt");
    char                     path[GR_PATH_MAX];

    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        any = any || holds(l, part[i]);
        take(l, part[i]);
    }
    if (!any) goto out;
    GR_TRY(gr_path(path, "%s/weights.h5", l->dir));
    GR_TRY(gr_tasks_add(u, GR_TASK_RUN, 0, l->dir, path));
out:
    return st;
}

/* ---- the walk -------------------------------------------------------------------------------------------------- */

static gr_status see_directory(gr_checker *k, gr_tasks *u, const char *dir, int depth);

static gr_status see_file(gr_checker *k, gr_tasks *u, const char *path)
{
    const char *name = base_of(path);
    int64_t     steps = -1, every = -1, last = -1;

    if (ends(name, ".h5")) return gr_tasks_add(u, GR_TASK_H5, 0, path, path);
    if (!strcmp(name, "results.json")) return gr_check_json(k, path, "results", true);
    if (!strcmp(name, "report.json")) return gr_check_json(k, path, "report", false);
    if (!strcmp(name, "graft.json") || ends(name, ".h5.json")) return gr_check_record(k, path);
    if (!strcmp(name, "index.json") || !strcmp(name, "manifest.json") || !strcmp(name, "files.json"))
        return gr_check_json(k, path, "index", true);
    if (!strcmp(name, "metrics.jsonl")) return gr_check_metrics(k, path, -1, -1, false, &last);
    if (!strcmp(name, "config.yaml")) return gr_check_config(k, path, NULL, &steps, &every);
    return gr_find(k, GR_FOREIGN, "", path, "not a Graft file");
}

/* `given`: the user named it, so a link to a directory is followed. */
static gr_status see(gr_checker *k, gr_tasks *u, const char *path, int depth, bool given)
{
    const char *why = housekeeping(base_of(path));
    struct stat sb, link;

    if (why && !given) return gr_find(k, GR_REMARK, "", path, "%s", why);
    if (lstat(path, &link) || stat(path, &sb)) return gr_find(k, GR_MISSING, "", path, "there is no such file");
    if (S_ISREG(sb.st_mode)) return see_file(k, u, path);
    if (!S_ISDIR(sb.st_mode)) return gr_find(k, GR_FOREIGN, "", path, "neither a file nor a directory");
    if (S_ISLNK(link.st_mode) && !given)
        return gr_find(k, GR_REMARK, "", path, "a symbolic link to a directory: not entered");
    if (depth == DEPTH) return gr_find(k, GR_REMARK, "", path, "%d directories deep: not entered", DEPTH);
    return see_directory(k, u, path, depth);
}

static gr_status see_directory(gr_checker *k, gr_tasks *u, const char *dir, int depth)
{
    gr_status st = GR_OK;
    listing   l = {.dir = dir};
    char(*path)[GR_PATH_MAX] = NULL; /* off the stack: this recurses */

    if (gr_list(dir, &l.name, &l.n) != GR_OK) {
        GR_TRY(gr_judge(k, GR_ERR_IO, "directory", dir, ""));
        goto out;
    }
    GR_TRY(gr_alloc(&path, 1, sizeof *path, "path"));
    if (l.n == 0) GR_TRY(gr_find(k, GR_REMARK, "", dir, "an empty directory"));
    skip(&l);
    GR_TRY(see_record(k, &l));
    GR_TRY(see_stores(k, u, &l));
    GR_TRY(see_export(k, u, &l));
    GR_TRY(see_run(u, &l));
    for (int64_t i = 0; i < l.n; i++) {
        if (!*l.name[i]) continue;
        GR_TRY(gr_path(*path, "%s/%s", dir, l.name[i]));
        GR_TRY(see(k, u, *path, depth + 1, false));
    }
out:
    gr_free(&path);
    gr_names_free(&l.name, l.n);
    return st;
}

/* A directory's name says what it holds (step-...), so "." will not do. */
static gr_status plain(char dst[GR_PATH_MAX], const char *path)
{
    gr_status st = GR_OK;
    size_t    n = strlen(path);
    char      whole[GR_PATH_MAX];

    while (n > 1 && path[n - 1] == '/') n--;
    GR_TRY(gr_path(dst, "%.*s", (int)n, path));
    if (!strcmp(base_of(dst), ".") || !strcmp(base_of(dst), ".."))
        if (realpath(dst, whole)) GR_TRY(gr_path(dst, "%s", whole));
out:
    return st;
}

gr_status gr_walk(gr_checker *k, gr_tasks *u, const char *given)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];

    GR_TRY(plain(path, given));
    GR_TRY(see(k, u, path, 0, true));
out:
    return st;
}
