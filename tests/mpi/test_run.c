/* A process from gr_run_open to gr_run_close: exit codes, what is said and how often, the same configuration on all
 * ranks, signals, threads. It starts itself again under mpirun, because a run ends in _exit. */
/*TEST
np: 1
timeout: 240
*/
#include "run/room.h"
#include "tests/check.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include "util/mem.h"
#include <omp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the program under test: child MODE arguments... ------------------------------------------------------------ */

static gr_status same_everywhere(const gr_run *run)
{
    int64_t      crc[2];
    const size_t n = strlen(run->config_text);

    crc[0] = gr_crc32c(0, run->config_text, n) ^ gr_crc32c(0, run->cfg->import.model, strlen(run->cfg->import.model));
    crc[1] = -crc[0];
    gr_max_i64(run->comm, crc, 2);
    return crc[0] == -crc[1] ? GR_OK : GR_ERR_ARG;
}

/* Rank `mode` of the job gets the signal; all learn of it in a reduction. */
static gr_status until_stopped(const gr_run *run, int number)
{
    int64_t stop = 0;

    if (gr_comm_rank(run->comm) == gr_comm_size(run->comm) - 1) raise(number);
    for (int step = 0; step < 3 && !stop; step++) {
        stop = gr_stop_requested();
        gr_sum_i64(run->comm, &stop, 1);
    }
    return stop ? GR_STOP : GR_OK;
}

/* Is it about signals? Then it must be a program that can stop and go on later. */
static bool catches(const char *mode)
{
    return !strcmp(mode, "term") || !strcmp(mode, "usr1") || !strcmp(mode, "int");
}

static int child(const char *mode, int argc, char **argv)
{
    gr_status st = GR_OK;
    gr_run   *run = NULL;
    char     *block = NULL;
    FILE     *nothing;

    GR_TRY(gr_run_open(&run, argc, argv, catches(mode) ? "teacher" : "import"));
    if (!run) goto out;
    if (!strcmp(mode, "same")) st = same_everywhere(run);
    if (!strcmp(mode, "term")) st = until_stopped(run, SIGTERM);
    if (!strcmp(mode, "usr1")) st = until_stopped(run, SIGUSR1);
    if (!strcmp(mode, "int")) st = until_stopped(run, SIGINT);
    if (!strcmp(mode, "locked")) st = GR_LOCKED;
    if (!strcmp(mode, "save")) st = GR_ERR_SAVE;
    if (!strcmp(mode, "nan")) st = GR_ERR_NUMERIC;
    if (!strcmp(mode, "leak")) st = gr_alloc(&block, 1, 1, "leak");
    if (!strcmp(mode, "pipe")) { /* SIGPIPE must not kill */
        nothing = popen("exec true", "w");
        for (int i = 0; nothing && i < 100000; i++) fputs("a line that nobody reads\n", nothing);
        if (nothing) pclose(nothing);
    }
    if (!strcmp(mode, "threads")) gr_log("uses %d of %d threads", run->threads, omp_get_max_threads());
    if (!strcmp(mode, "progress"))
        for (int i = 0; i <= 20; i++) {
            gr_progress(run, "reading", i, 20, "loss 3.2");
            if (run->progress) usleep(60000);
        }
out:
    return gr_run_close(&run, st);
}

/* ---- the test --------------------------------------------------------------------------------------------------- */

static char self[GR_PATH_MAX], dir[GR_PATH_MAX];
static char said[1 << 18]; /* stdout and stderr of the last child */

/* As if not started by mpirun ourselves; what the harness asks of mpirun stays. */
static void forget_launcher(void)
{
    static const char *const keep[] = {"OMPI_ALLOW_RUN_AS_ROOT",
                                       "OMPI_MCA_rmaps_base_oversubscribe",
                                       "OMPI_MCA_mpi_yield_when_idle",
                                       "OMPI_MCA_hwloc_base_binding_policy",
                                       "OMPI_MCA_btl_vader_backing_directory",
                                       "OMPI_MCA_pml",
                                       "OMPI_MCA_btl"};
    extern char            **environ;
    char                     name[256];

    for (char **e = environ; *e;) {
        const size_t n = strcspn(*e, "=");
        bool         drop =
            !strncmp(*e, "OMPI_", 5) || !strncmp(*e, "PMIX_", 5) || !strncmp(*e, "PMI_", 4) || !strncmp(*e, "ORTE_", 5);
        for (size_t i = 0; i < sizeof keep / sizeof keep[0]; i++)
            if (!strncmp(*e, keep[i], strlen(keep[i]))) drop = false;
        if (drop && n < sizeof name) {
            memcpy(name, *e, n);
            name[n] = 0;
            unsetenv(name);
            e = environ;
        } else {
            e++;
        }
    }
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
}

/* Exit code of a shell command; its output goes to `said`. */
static int shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *fmt, ...)
{
    char    command[3 * GR_PATH_MAX];
    size_t  n = 0, got;
    va_list ap;
    FILE   *f;
    int     status;

    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    f = popen(command, "r");
    while (f && (got = fread(said + n, 1, sizeof said - 1 - n, f)) > 0) n += got;
    said[n] = 0;
    status = f ? pclose(f) : -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int count(const char *what)
{
    int n = 0;

    for (const char *p = said; (p = strstr(p, what)) != NULL; p++) n++;
    return n;
}

#define GOOD    "run.out=o import.model=m"
#define TEACHER "run.out=o model.weights=m data.shards=s"
#define MPIRUN(np, before, mode, args)                                                                                 \
    shell("%s mpirun --oversubscribe -n %d '%s' child %s %s 2>&1", before, np, self, mode, args)

static void any_number_of_ranks(void)
{
    for (int np = 1; np <= 4; np++) {
        char ranks[64];

        CHECK(MPIRUN(np, "OMP_NUM_THREADS=1 GR_LEAKS=fatal", "same", GOOD) == 0, "np %d: %s", np, said);
        snprintf(ranks, sizeof ranks, "%d rank%s on 1 host, ", np, np == 1 ? "" : "s");
        CHECK(count(ranks) == 1 && count("graft-import[0]: ") == 1, "np %d: %s", np, said);

        CHECK(MPIRUN(np, "GR_LEAKS=fatal", "same", "run.out=o import.modle=m") == 2, "np %d: %s", np, said);
        CHECK(count("did you mean import.model?") == 1, "np %d: said once: %s", np, said);
        CHECK(count("all ") == (np > 1) && count("not freed") == 0, "np %d: %s", np, said);
    }
}

static void every_exit_code(void)
{
    static const struct {
        const char *mode;
        int         code;
    } table[] = {{"term", 85}, {"usr1", 85}, {"int", 85}, {"locked", 75}, {"save", 86}, {"nan", 1}, {"pipe", 0}};

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const int code = MPIRUN(2, "GR_LEAKS=fatal", table[i].mode, catches(table[i].mode) ? TEACHER : GOOD);
        CHECK(code == table[i].code, "%s: exit %d, expected %d: %s", table[i].mode, code, table[i].code, said);
    }
    CHECK(MPIRUN(2, "GR_LEAKS=fatal", "leak", GOOD) == 1 && count("1 blocks of memory were not freed") == 2, "%s",
          said);
    CHECK(MPIRUN(1, "", "leak", GOOD) == 0 && count("not freed") == 1, "%s", said);
    CHECK(MPIRUN(1, "GR_LEAKS=fatal", "same", "missing.yaml") == 2 && count("missing.yaml: No such file") == 1, "%s",
          said);
}

static void backends(void)
{
    CHECK(MPIRUN(1, "", "same", GOOD " run.backend=cpu") == 0, "%s", said);
    if (MPIRUN(3, "GR_LEAKS=fatal", "same", GOOD " run.backend=cuda") != 0) /* a build without it, or no device */
        CHECK(count("backend cuda") == 1 && count("not freed") == 0, "%s", said);
}

static void answers(void)
{
    static char printed[sizeof said];
    char        path[GR_PATH_MAX];

    CHECK(MPIRUN(3, "GR_LEAKS=fatal", "same", "--help") == 0 && count("usage: ") == 1, "%s", said);
    CHECK(MPIRUN(3, "GR_LEAKS=fatal", "same", "--version") == 0 && count("graft-import ") == 1 &&
              count(" (commit ") == 1,
          "%s", said);
    CHECK(shell("GR_LEAKS=fatal mpirun --oversubscribe -n 2 '%s' child same --print-config " GOOD, self) == 0, "%s",
          said);
    CHECK(count("  out: \"o\"\n") == 1, "%s", said);
    memcpy(printed, said, sizeof said);
    CHECK(gr_path(path, "%s/printed.yaml", dir) == GR_OK && gr_write_file(path, printed, strlen(printed)) == GR_OK,
          "write");
    CHECK(shell("'%s' child same --print-config '%s'", self, path) == 0 && !strcmp(said, printed), "read back:\n%s",
          said);
    CHECK(MPIRUN(2, "", "same", path) == 0, "%s", said);
    unlink(path);

    CHECK(shell("'%s' child same --help 2>&1 >/dev/full", self) == 1 && count("stdout cannot be written") == 1, "%s",
          said);
    CHECK(shell("'%s' child nan " GOOD " 2>&1 >/dev/full", self) == 1, "%s", said);
}

static void threads(void)
{
    CHECK(MPIRUN(2, "OMP_NUM_THREADS=5", "threads", GOOD " run.threads=3") == 0, "%s", said);
    CHECK(count("uses 3 of 3 threads") == 2, "the configuration wins: %s", said);
    CHECK(MPIRUN(2, "OMP_NUM_THREADS=5", "threads", GOOD) == 0, "%s", said);
    CHECK(count("warning: 5 threads per rank") == 1, "two ranks of five threads: %s", said);
    CHECK(count("uses 5 of 5 threads") == 2, "the environment is next: %s", said);
    unsetenv("OMP_NUM_THREADS");
    CHECK(shell("taskset -c 0 '%s' child threads " GOOD " 2>&1", self) == 0 && count("uses 1 of 1 threads") == 1,
          "one core: %s", said);
    CHECK(MPIRUN(4, "taskset -c 0", "threads", GOOD) == 0 && count("uses 1 of 1 threads") == 4, "at least one: %s",
          said);
    if (sysconf(_SC_NPROCESSORS_ONLN) >= 2) {
        CHECK(shell("taskset -c 0,1 '%s' child threads " GOOD " 2>&1", self) == 0 && count("uses 2 of 2 threads") == 1,
              "alone on two cores: %s", said);
        CHECK(shell("taskset -c 0,1 mpirun --bind-to none -n 2 '%s' child threads " GOOD " 2>&1", self) == 0, "%s",
              said);
        CHECK(count("uses 1 of 1 threads") == 2, "two ranks share two cores: %s", said);
        CHECK(shell("mpirun --bind-to none -n 1 taskset -c 0 '%s' child threads " GOOD " : "
                    "-n 1 taskset -c 1 '%s' child threads " GOOD " 2>&1",
                    self, self) == 0,
              "%s", said);
        CHECK(count("uses 1 of 1 threads") == 2, "ranks bound to a core each: %s", said);
    }
}

static void progress(void)
{
    CHECK(MPIRUN(2, "", "progress", GOOD) == 0 && count("reading") == 0, "drawn in a log: %s", said);
    CHECK(MPIRUN(2, "GR_PROGRESS=1", "progress", GOOD) == 0, "%s", said);
    CHECK(count("reading [") >= 2 && count("ETA ") >= 1, "%s", said);
    CHECK(count("\rreading [####################] 20/20  ") == 1 && count("loss 3.2\033[K\n") == 1, "%s", said);
}

int main(int argc, char **argv)
{
    const char *place = getenv("GR_TEST_DIR");
    ssize_t     n;

    if (argc >= 3 && !strcmp(argv[1], "child")) return child(argv[2], argc - 2, argv + 2);
    n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    CHECK(gr_path(dir, "%s", place ? place : "/tmp") == GR_OK, "no directory");
    forget_launcher();
    any_number_of_ranks();
    every_exit_code();
    backends();
    answers();
    threads();
    progress();
    CHECK(strlen(gr_utc()) == 20 && gr_utc()[19] == 'Z' && gr_now() > 0, "%s", gr_utc());
    return check_result();
}
