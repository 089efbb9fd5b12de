/** @file run.h  What is true of the whole process: ranks, backend, resolved configuration, stop flag.
 *
 * A job opens a run first and closes it last:
 *
 *     GR_TRY(gr_run_open(&run, argc, argv, "align"));
 *     if (!run) goto out;                              (--help and the like: answered)
 *     ...
 *   out:
 *     return gr_run_close(&run, st);
 */
#ifndef GR_RUN_RUN_H
#define GR_RUN_RUN_H
#include "comm/comm.h"
#include "comm/mesh.h"
#include "config/config.h"
#include "kernels/backend.h"
#include "util/clock.h"
#include "util/status.h"

GR_C_BEGIN

typedef struct gr_run {
    gr_comm            *comm;        /**< all ranks                                              */
    gr_mesh            *mesh;        /**< how they divide the work: all of them by data, today   */
    const gr_config    *cfg;         /**< resolved; the same on all ranks                        */
    const char         *program;     /**< "align"                                                */
    const char         *config_text; /**< resolved configuration as YAML, for outputs            */
    int                 threads;     /**< compute threads of this rank                           */
    const gr_ops       *ops;         /**< the backend: run.backend, tuned to this machine        */
    double              start_s;     /**< gr_now() at start                                      */
    struct gr_progress *progress;    /**< progress.c's; NULL where there is no terminal to draw on */
} gr_run;

/** [collective] Signals, watchdog, MPI, configuration, threads, backend. Rank 0 reads the files and the environment,
 * and logs what is wrong with them. --help, --version and --print-config are answered on rank 0's stdout and give GR_OK
 * with *run NULL. On failure *run is NULL, too.
 *
 * Threads: run.threads, else OMP_NUM_THREADS, else this rank's share of the cores that the ranks of its host may run
 * on. */
gr_status gr_run_open(gr_run **run, int argc, char **argv, const char *program);

/** [collective] Close what gr_run_open opened, log live memory, flush, finalise MPI, and leave the process with the
 * exit code of `st` (never returns; the type lets a main say `return`). Works with *run NULL, after gr_run_open was
 * called.
 *
 * Success turns into exit 1 when stdout cannot be written (a full disk under --print-config > file), and when memory is
 * live and the environment says GR_LEAKS=fatal (tests). */
int gr_run_close(gr_run **run, gr_status st);

/** [local] In training programs and graft-teacher: 1 after SIGTERM, SIGUSR1 or SIGINT (a second SIGINT ends the
 * process). Ranks agree by adding it to the step's reduction: never act on it alone. */
int gr_stop_requested(void);

/** [local] "0.1.0", and the commit it was built from. */
const char *gr_version(void);
const char *gr_commit(void);

/** [rank 0; others no-op] Progress of a long stage: on a terminal one line redrawn at most twice a second, with ETA; in
 * a log nothing (the caller logs lines by its own interval). mpirun hides the terminal; GR_PROGRESS=1 in the
 * environment draws all the same. `note`, or NULL, is printed after the bar, e.g. "loss 3.21". done >= total ends the
 * line. */
void gr_progress(const gr_run *run, const char *what, int64_t done, int64_t total, const char *note);

GR_C_END
#endif
