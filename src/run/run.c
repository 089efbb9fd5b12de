#include "run/room.h"
#include "run/watchdog.h"
#include "util/mem.h"
#include <inttypes.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of the start, until the configuration says something else: MPI and the reading of the configuration may hang, too. */
enum { START_LIMIT_S = 1800 };

/* MPI must be finalised also where no gr_run came to be: a wrong configuration, --help. */
static struct {
    gr_comm *world;
    int64_t  live; /* blocks of memory that `world` itself takes */
} process;

/* Rank 0 reads the command line, so that one process asks the file system and one complains. The others get the
 * resolved text, in counted memory; NULL when there is nothing to run. */
static gr_status resolve(int argc, char **argv, const char *program, char **text)
{
    gr_status  st = GR_OK;
    gr_config *cfg = NULL;
    gr_cli     what = GR_CLI_RUN;
    char      *t = NULL;
    int64_t    n = -1;
    const bool first = gr_comm_rank(process.world) == 0;

    if (first) {
        st = gr_config_open(&cfg, &what, program, argc, argv);
        if (st == GR_OK && what == GR_CLI_HELP) st = gr_config_help(program, &t);
        if (st == GR_OK && cfg) st = gr_config_print(cfg, program, &t);
        gr_config_close(&cfg);
        if (st == GR_OK && what == GR_CLI_VERSION)
            printf("graft-%s %s (commit %s)\n", program, gr_version(), gr_commit());
        else if (st == GR_OK && what != GR_CLI_RUN)
            fputs(t, stdout); /* gr_run_close sees whether that went well */
        if (st == GR_OK && what == GR_CLI_RUN) n = (int64_t)strlen(t);
    }
    GR_TRY(gr_agree(process.world, st));
    gr_bcast(process.world, &n, sizeof n, 0);
    if (n < 0) goto out;
    if (!first) st = gr_alloc(&t, (uint64_t)n + 1, 1, "configuration");
    GR_TRY(gr_agree(process.world, st));
    gr_bcast(process.world, t, n, 0);
    *text = t;
    t = NULL;
out:
    gr_free(&t);
    return st;
}

/* This rank's share of the cores of its host: every core is divided among the ranks that may run on it. That is right
 * for ranks bound to their own cores, for ranks that share all of them, and for anything between. */
static int share_of_cores(const cpu_set_t *all, int rank, int size)
{
    double share = 0;

    for (int core = 0; core < CPU_SETSIZE; core++) {
        int users = 0;
        for (int r = 0; r < size; r++) users += CPU_ISSET(core, &all[r]) != 0;
        if (CPU_ISSET(core, &all[rank])) share += 1.0 / users;
    }
    return share < 1 ? 1 : (int)(share + 1e-6);
}

/* [collective] Sets run->threads; *hosts counts the hosts of the job. */
static gr_status set_threads(gr_run *run, int64_t *hosts)
{
    gr_status st = GR_OK;
    gr_comm  *host = NULL;
    cpu_set_t mine, *all = NULL;
    const int wished = (int)run->cfg->run.threads;

    GR_TRY(gr_comm_split_host(run->comm, &host));
    st = gr_alloc(&all, (uint64_t)gr_comm_size(host), sizeof *all, "affinity of the ranks of this host");
    GR_TRY(gr_agree(run->comm, st));
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) /* more than CPU_SETSIZE cores: as if one */
        CPU_SET(0, &mine);
    gr_allgather(host, &mine, sizeof mine, all);
    run->threads = wished > 0                  ? wished
                   : getenv("OMP_NUM_THREADS") ? omp_get_max_threads()
                                               : share_of_cores(all, gr_comm_rank(host), gr_comm_size(host));
    omp_set_num_threads(run->threads);
    if (run->threads > 1 && run->threads > share_of_cores(all, gr_comm_rank(host), gr_comm_size(host)))
        gr_log0("warning: %d threads per rank are more than this rank's %d of the host's cores; threads that wait will "
                "steal from those that "
                "work. Unset OMP_NUM_THREADS, or set run.threads",
                run->threads, share_of_cores(all, gr_comm_rank(host), gr_comm_size(host)));
    *hosts = gr_comm_rank(host) == 0;
    gr_sum_i64(run->comm, hosts, 1);
out:
    gr_free(&all);
    gr_comm_close(&host);
    return st;
}

/* [collective] Rank 0 first: a backend that this build lacks is complained of once. `note` says what was chosen. */
static gr_status open_backend(gr_run *run, char *note, int n_note)
{
    gr_status st = GR_OK;

    for (int turn = 0; turn < 2; turn++) {
        if ((gr_comm_rank(run->comm) != 0) == turn)
            st = gr_backend_open(run->cfg->run.backend, run->threads, &run->ops, note, n_note);
        GR_TRY(gr_agree(run->comm, st));
    }
out:
    return st;
}

static void run_free(gr_run **run)
{
    gr_config *cfg;

    if (!*run) return;
    cfg = (gr_config *)(*run)->cfg;
    gr_progress_close(*run);
    gr_mesh_close(&(*run)->mesh);
    gr_config_close(&cfg);
    gr_free(&(*run)->config_text);
    gr_free(run);
}

gr_status gr_run_open(gr_run **out, int argc, char **argv, const char *program)
{
    static const int  by_data[GR_AXES] = {[GR_PIPE] = 1, [GR_SHARD] = 1, [GR_SEQUENCE] = 1};
    gr_status         st = GR_OK;
    gr_run           *run = NULL;
    gr_config        *cfg = NULL;
    char             *text = NULL;
    int64_t           hosts = 0;
    int               size;
    char              note[160] = "";
    const gr_program *prog = gr_program_find(program);
    const bool        stops = prog && (strstr(prog->sections, "checkpoint") || strstr(prog->sections, "logits"));
    gr_status         caught = gr_stop_catch(stops);

    *out = NULL;
    if (caught == GR_OK) caught = gr_watchdog_start(prog ? prog->command : program, START_LIMIT_S);
    GR_TRY(gr_comm_init(&process.world, &argc, &argv));
    process.live = gr_mem_live();
    gr_log_identity(prog ? prog->command : program, gr_comm_rank(process.world));
    gr_watchdog_set(gr_comm_rank(process.world), START_LIMIT_S);
    if (caught == GR_OK) caught = gr_stop_catch(stops);
    GR_TRY(gr_agree(process.world, caught));

    GR_TRY(resolve(argc, argv, program, &text));
    if (!text) goto out;
    /* Rank 0, too, takes the text: all ranks have the same values, bit for bit. */
    st = gr_config_from_text(&cfg, program, "resolved configuration", text, strlen(text));
    if (st == GR_OK) st = gr_alloc(&run, 1, sizeof *run, "run");
    GR_TRY(gr_agree(process.world, st));
    gr_watchdog_set(gr_comm_rank(process.world), cfg->run.watchdog);
    *run = (gr_run){.comm = process.world, .cfg = cfg, .program = prog->name, .config_text = text, .start_s = gr_now()};
    cfg = NULL;
    text = NULL;
    GR_TRY(gr_mesh_open(&run->mesh, run->comm, by_data));
    GR_TRY(set_threads(run, &hosts));
    GR_TRY(open_backend(run, note, sizeof note));
    GR_TRY(gr_agree(process.world, gr_progress_open(run)));
    size = gr_comm_size(run->comm);
    gr_log0("%s (commit %s): %d rank%s on %" PRId64 " host%s, %d thread%s each, %s", gr_version(), gr_commit(), size,
            size == 1 ? "" : "s", hosts, hosts == 1 ? "" : "s", run->threads, run->threads == 1 ? "" : "s", note);
    *out = run;
    run = NULL;
out:
    gr_free(&text);
    gr_config_close(&cfg);
    run_free(&run);
    return st;
}

int gr_run_close(gr_run **run, gr_status st)
{
    int     code = gr_exit_code(st);
    int64_t live;

    run_free(run);
    live = gr_mem_live() - process.live;
    if (live != 0) {
        const char *leaks = getenv("GR_LEAKS");
        gr_log("%" PRId64 " blocks of memory were not freed", live);
        if (code == 0 && leaks && !strcmp(leaks, "fatal")) code = 1;
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        gr_log("stdout cannot be written");
        if (code == 0) code = 1;
    }
    fflush(stderr);
    if (process.world) gr_comm_finalize(&process.world);
    _exit(code); /* not exit: nothing of ours, and nothing of MPI's, may run after MPI_Finalize */
}
