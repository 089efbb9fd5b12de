#include "verify/verify.h"
#include "util/mem.h"
#include "verify/room.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- everybody gets the list ---------------------------------------------------------------------------- */

static gr_status pack(const gr_tasks *u, gr_text *t)
{
    for (int64_t i = 0; i < u->n; i++) {
        gr_text_put(t, (const char *)&u->task[i], sizeof *u->task);
        gr_text_put(t, u->task[i].path, strlen(u->task[i].path) + 1);
    }
    return t->st;
}

/* `path` of the tasks points into the text. */
static void unpack(gr_task *task, int64_t n, const char *text)
{
    for (int64_t i = 0; i < n; i++) {
        memcpy(&task[i], text, sizeof *task);
        task[i].path = text + sizeof *task;
        text = task[i].path + strlen(task[i].path) + 1;
    }
}

/* [collective] Rank 0's tasks, for all: *task [*n], with their paths in *text. */
static gr_status share(const gr_comm *c, const gr_tasks *u, gr_task **task, int64_t *n, char **text)
{
    gr_status st = GR_OK;
    gr_text   t = {0};
    int64_t   size[2];

    if (gr_comm_rank(c) == 0) st = pack(u, &t);
    GR_TRY(gr_agree(c, st));
    size[0] = u->n;
    size[1] = (int64_t)t.n;
    gr_bcast(c, size, sizeof size, 0);
    st = gr_alloc(text, (uint64_t)size[1], 1, "tasks");
    if (st == GR_OK) st = gr_alloc(task, (uint64_t)size[0], sizeof **task, "tasks");
    GR_TRY(gr_agree(c, st));
    if (gr_comm_rank(c) == 0 && size[1]) memcpy(*text, t.s, t.n);
    gr_bcast(c, *text, size[1], 0);
    unpack(*task, size[0], *text);
    *n = size[0];
out:
    gr_text_close(&t);
    return st;
}

/* ---- who does what ---------------------------------------------------------------------------------------- */

enum { TOGETHER = -1 };

typedef struct load {
    int64_t task, bytes;
} load;

static int by_load(const void *a, const void *b)
{
    const load *x = a, *y = b;

    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return (x->task > y->task) - (x->task < y->task);
}

/* A file that is more than a rank's share of all bytes is read by all ranks together, where its check can be divided;
 * the others go, largest first, to whoever has least. The same on every rank. */
static gr_status deal(const gr_task *task, int64_t n, int ranks, int *who)
{
    gr_status st = GR_OK;
    load     *order = NULL;
    int64_t  *has = NULL, total = 0;

    GR_TRY(gr_alloc(&order, (uint64_t)n, sizeof *order, "loads"));
    GR_TRY(gr_alloc(&has, (uint64_t)ranks, sizeof *has, "loads"));
    for (int64_t i = 0; i < n; i++) {
        order[i] = (load){i, task[i].bytes + 4096}; /* opening costs, too */
        total += order[i].bytes;
    }
    if (n) qsort(order, (size_t)n, sizeof *order, by_load);
    for (int64_t i = 0; i < n; i++) {
        const gr_task *u = &task[order[i].task];
        int            least = 0;

        if (ranks > 1 && (u->kind == GR_TASK_RUN || u->kind == GR_TASK_H5) && order[i].bytes > total / ranks) {
            who[order[i].task] = TOGETHER;
            continue;
        }
        for (int r = 1; r < ranks; r++)
            if (has[r] < has[least]) least = r;
        has[least] += order[i].bytes;
        who[order[i].task] = least;
    }
out:
    gr_free(&has);
    gr_free(&order);
    return st;
}

static gr_status check(gr_checker *k, const gr_task *u)
{
    switch (u->kind) {
    case GR_TASK_RUN: return gr_check_run(k, u->path);
    case GR_TASK_H5: return gr_check_h5(k, u->path);
    default: return gr_check_member(k, u);
    }
}

/* [collective] */
static gr_status check_all(gr_checker *k, const gr_comm *c, const gr_task *task, int64_t n)
{
    gr_status st = GR_OK;
    int      *who = NULL;

    st = gr_alloc(&who, (uint64_t)n, sizeof *who, "tasks");
    if (st == GR_OK) st = deal(task, n, gr_comm_size(c), who);
    GR_TRY(gr_agree(c, st));
    k->c = c;
    for (int64_t i = 0; i < n; i++)
        if (who[i] == TOGETHER) GR_TRY(check(k, &task[i]));
    k->c = NULL;
    for (int64_t i = 0; st == GR_OK && i < n; i++)
        if (who[i] == gr_comm_rank(c)) st = check(k, &task[i]);
    GR_TRY(gr_agree(c, st));
out:
    gr_free(&who);
    return st;
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static gr_status walk(gr_checker *k, const gr_cfg_verify *cfg, gr_tasks *tasks)
{
    gr_status st = GR_OK;

    for (int64_t i = 0; i < cfg->paths.n; i++) GR_TRY(gr_walk(k, tasks, cfg->paths.v[i]));
out:
    return st;
}

/* [collective] With errors kept from the log, as they are findings. */
static gr_status look(gr_checker *k, const gr_run *run)
{
    gr_status st = GR_OK;
    gr_tasks  tasks = {0};
    gr_task  *task = NULL;
    char     *text = NULL;
    int64_t   n = 0;

    gr_log_keep(k->cause, sizeof k->cause);
    if (gr_comm_rank(run->comm) == 0) st = walk(k, &run->cfg->verify, &tasks);
    GR_TRY(gr_agree(run->comm, st));
    GR_TRY(share(run->comm, &tasks, &task, &n, &text));
    GR_TRY(check_all(k, run->comm, task, n));
out:
    gr_log_keep(NULL, 0);
    if (st != GR_OK && *k->cause) gr_log("%s", k->cause);
    gr_store_close(k);
    gr_tasks_close(&tasks);
    gr_free(&task);
    gr_free(&text);
    return st;
}

gr_status gr_verify(const gr_run *run)
{
    gr_status   st = GR_OK;
    gr_checker *k = NULL;
    int64_t     n_bad = 0, n_file = 0;

    GR_TRY(gr_agree(run->comm, gr_alloc(&k, 1, sizeof *k, "checker")));
    k->deep = run->cfg->verify.deep;
    GR_TRY(look(k, run));
    GR_TRY(gr_findings_report(k, run->comm, run->cfg->verify.all, run->cfg->verify.report, gr_now() - run->start_s,
                              &n_bad, &n_file));
    GR_CHECK0(n_file > 0, GR_ERR_INPUT, "there is no Graft file");
    GR_CHECK0(n_bad == 0, GR_ERR_INPUT, "%" PRId64 " files are damaged or missing", n_bad);
out:
    if (k) gr_text_close(&k->findings);
    gr_free(&k);
    return st;
}
