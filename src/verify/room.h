/** @file room.h  What the files of this room share: tasks, and the findings that they yield.
 *
 * Rank 0 walks the paths and lists tasks, each a file or the files of a run; tasks are dealt over the ranks by bytes,
 * large ones are checked by all ranks together. Checking a task yields findings, one per file, which rank 0 gathers,
 * sorts by path and prints. A damaged file is a finding, not an error: a check fails when it cannot go on (memory).
 */
#ifndef GR_VERIFY_ROOM_H
#define GR_VERIFY_ROOM_H
#include "comm/comm.h"
#include "store/checkpoint.h"
#include "store/logits.h"
#include "store/shards.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/text.h"

typedef enum gr_task_kind {
    GR_TASK_RUN,    /**< weights.h5, config.yaml, metrics.jsonl, ckpt of a directory          */
    GR_TASK_H5,     /**< a sealed HDF5 file by itself, weights among them                     */
    GR_TASK_SHARD,  /**< file `member` of a corpus whose index is sound                       */
    GR_TASK_LOGITS, /**< ... of a store of predictions                                        */
    GR_TASK_CKPT,   /**< ... of a checkpoint                                                  */
    GR_TASK_EXPORT, /**< ... of those that files.json lists                                   */
    GR_N_TASK_KINDS
} gr_task_kind;

typedef struct gr_task {
    gr_task_kind kind;
    int64_t      member;
    int64_t      bytes; /**< to read, about            */
    const char  *path;  /**< the file, or the directory */
} gr_task;

/** From best to worst: of two findings about one path the worse one counts. */
typedef enum gr_verdict { GR_GOOD, GR_REMARK, GR_FOREIGN, GR_MISSING, GR_DAMAGED, GR_N_VERDICTS } gr_verdict;

/** What a rank works with. */
typedef struct gr_checker {
    const gr_comm *c; /**< NULL: this rank alone; else all ranks check the task together */
    bool           deep;
    gr_text        findings;    /**< of this rank, as gr_find packed them                        */
    char           cause[2048]; /**< the first error since the last gr_judge (gr_log_keep)       */
    gr_task_kind   open_kind;   /**< the store that is open, so that its index is read once      */
    char           open_path[GR_PATH_MAX];
    gr_shards     *shards;
    gr_logits     *logits;
    gr_ckpt       *ckpt;
    json_t        *files; /**< `files` of an export's files.json                            */
} gr_checker;

/* ---- findings (find.c) ---- */

/** [local] Say something of a file. Collective checks: rank 0 says what is good, whoever saw it what is not. */
gr_status gr_find(gr_checker *k, gr_verdict verdict, const char *kind, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/** [local] The outcome of reading a file: good, with `facts`; or, when `st` says that the file is at fault, missing or
 * damaged, with the cause. Any other status is returned. */
gr_status gr_judge(gr_checker *k, gr_status st, const char *kind, const char *path, const char *facts);

/** [collective] Gather, sort, print. *n_bad counts what is damaged or missing, *n_file what is Graft's; equal on all
 * ranks. */
gr_status gr_findings_report(gr_checker *k, const gr_comm *c, bool all, const char *json_path, double seconds,
                             int64_t *n_bad, int64_t *n_file);

/* ---- the walk (walk.c) ---- */

typedef struct gr_tasks {
    gr_task *task;
    int64_t  n, room;
} gr_tasks;

/** [rank 0] List the tasks below `path`, which the user named; indexes and manifests are checked on the way. */
gr_status gr_walk(gr_checker *k, gr_tasks *tasks, const char *path);
gr_status gr_tasks_add(gr_tasks *u, gr_task_kind kind, int64_t member, const char *path, const char *file);
void      gr_tasks_close(gr_tasks *u);

/* ---- the checks ---- */

/** The indexes of stores: open the store of a task (closing another one). */
gr_status gr_store_open(gr_checker *k, gr_task_kind kind, const char *dir);
void      gr_store_close(gr_checker *k);

/** [rank 0] What a store's index says, for its line. */
gr_status gr_store_facts(const gr_checker *k, gr_text *facts);

/** [local] A member of the store of kind `u->kind` in directory u->path. */
gr_status gr_check_member(gr_checker *k, const gr_task *u);

/** [rank 0] How many members the open store has, and where member i is. */
int64_t   gr_store_members(const gr_checker *k);
gr_status gr_store_path(const gr_checker *k, int64_t i, char path[GR_PATH_MAX]);

/** [collective] A sealed HDF5 file by itself. */
gr_status gr_check_h5(gr_checker *k, const char *path);

/** [collective] Weights; *config (counted memory) is the configuration that made them, NULL when they are not sound. */
gr_status gr_check_weights(gr_checker *k, const char *path, char **config);

/** [collective] The files of a run. */
gr_status gr_check_run(gr_checker *k, const char *dir);

/** [local] Small files by themselves: a sealed JSON, a configuration, metrics. */
gr_status gr_check_json(gr_checker *k, const char *path, const char *kind, bool sealed);
gr_status gr_check_config(gr_checker *k, const char *path, const char *made_with, int64_t *steps, int64_t *every);
gr_status gr_check_metrics(gr_checker *k, const char *path, int64_t steps, int64_t saved, bool finished, int64_t *last);

/** [rank 0] An exported directory: files.json, headers, names; its files become tasks. */
gr_status gr_check_export(gr_checker *k, gr_tasks *tasks, const char *dir);

/** [rank 0] The record of a stage, graft.json or FILE.h5.json: what it made is there, and is what it made. */
gr_status gr_check_record(gr_checker *k, const char *path);

/** "made from DIR (content ...), which is there and unchanged", a line for every entry of `inputs`. */
gr_status gr_lineage(gr_checker *k, const json_t *inputs, const char *name, gr_text *out);

#endif
