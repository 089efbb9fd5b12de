#include "run/watchdog.h"
#include "util/beat.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    TICK_S = 1,
    GRACE_S = 3,       /* between the report and the end: the launcher kills the ranks that have not reported */
    REPORT_S = 5,      /* so long may writing the report take                                                 */
    HOST = 65,         /* HOST_NAME_MAX + 1                                                                   */
    REPORT = PIPE_BUF, /* one write of this size is one piece, and fits into a pipe that poll calls ready     */
    RESERVE = 40       /* of REPORT, for saying that there is more                                            */
};

/* A thread has one argument and lives as long as the process. */
static struct {
    const char     *program;
    char            host[HOST];
    atomic_int      rank;
    _Atomic int64_t limit_s;
} dog;

/* ---- the report: no allocation, no lock, whatever the process was in the middle of ---------------------------------
 */

typedef struct report {
    char   text[REPORT];
    size_t n;
} report;

__attribute__((format(printf, 2, 3))) static void add(report *r, const char *fmt, ...)
{
    const size_t room = sizeof r->text - r->n;
    va_list      ap;
    int          k;

    va_start(ap, fmt);
    k = vsnprintf(r->text + r->n, room, fmt, ap);
    va_end(ap);
    r->n += k < 0 ? 0 : (size_t)k < room ? (size_t)k : room - 1;
}

/* A small file of /proc as one word or line; "?" when it cannot be had. */
static void read_line(char *line, size_t size, int dir, const char *thread, const char *name)
{
    char    path[300];
    ssize_t n = -1;
    int     fd;

    snprintf(path, sizeof path, "%s/%s", thread, name);
    fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) n = read(fd, line, size - 1);
    if (fd >= 0) close(fd);
    if (n <= 0) n = snprintf(line, size, "?");
    line[n] = 0;
    line[strcspn(line, "\n")] = 0;
}

/* "4711 graft-align S in futex_wait_queue, system call 202": name, state, where in the kernel. */
static void add_thread(report *r, int dir, const char *thread)
{
    char name[64], stat[256], where[64], call[256], *state;

    read_line(name, sizeof name, dir, thread, "comm");
    read_line(stat, sizeof stat, dir, thread, "stat");
    read_line(where, sizeof where, dir, thread, "wchan");
    read_line(call, sizeof call, dir, thread, "syscall");
    state = strrchr(stat, ')');
    call[strcspn(call, " ")] = 0;
    add(r, " %s %s %c in %s, system call %s;", thread, name, state && state[1] ? state[2] : '?',
        strcmp(where, "0") ? where : "user code", call);
}

/* All threads but this one, the main thread first; the kernel lists them by age. opendir would allocate. */
static void add_threads(report *r)
{
    _Alignas(struct dirent64) char list[4096];
    const int                      dir = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char                           self[16];
    ssize_t                        n = 0;
    int                            left_out = 0;

    snprintf(self, sizeof self, "%d", (int)gettid());
    add(r, " threads:");
    while (dir >= 0 && (n = getdents64(dir, list, sizeof list)) > 0)
        for (ssize_t i = 0; i < n;) {
            const struct dirent64 *entry = (const struct dirent64 *)(list + i);
            const report           before = *r;
            i += entry->d_reclen;
            if (entry->d_name[0] == '.' || !strcmp(entry->d_name, self)) continue;
            if (!left_out) add_thread(r, dir, entry->d_name);
            if (left_out || r->n > sizeof r->text - RESERVE) { /* whole threads or none */
                *r = before;
                left_out++;
            }
        }
    if (left_out) add(r, " and %d more", left_out);
    if (dir >= 0) close(dir);
}

static void compose(report *r, const gr_life *life, int64_t idle_s)
{
    const int rank = atomic_load(&dog.rank);
    char      who[16] = "?";

    if (rank >= 0) snprintf(who, sizeof who, "%d", rank);
    add(r, "%s[%s]: hangs: no sign of life for %lld s on host %s, in %s", dog.program, who, (long long)idle_s, dog.host,
        life->doing);
    if (life->step > 0) add(r, ", step %lld", (long long)life->step);
    if (life->layer >= 0) add(r, ", layer %d", life->layer);
    add(r, " (run.watchdog = %lld, exit %d);", (long long)atomic_load(&dog.limit_s), GR_EXIT_HUNG);
    add_threads(r);
    r->text[r->n < sizeof r->text - 1 ? r->n++ : r->n - 1] = '\n';
}

static void tick(int seconds)
{
    const struct timespec t = {.tv_sec = seconds};

    nanosleep(&t, NULL);
}

static _Noreturn void give_up(const gr_life *life, int64_t idle_s)
{
    static report r; /* not on the stack of a thread that is in trouble enough */
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};

    alarm(REPORT_S + GRACE_S + 2); /* should stderr be a file on what hangs: the signal ends the process */
    compose(&r, life, idle_s);
    if (poll(&out, 1, REPORT_S * 1000) > 0 && write(STDERR_FILENO, r.text, r.n) > 0) tick(GRACE_S);
    _exit(GR_EXIT_HUNG);
}

/* ---- the thread
 * ------------------------------------------------------------------------------------------------------ */

static void *watch(void *unused)
{
    uint64_t seen = 0;
    int64_t  idle_s = 0;

    (void)unused;
    for (;;) {
        tick(TICK_S); /* however late it returns, it counts once: a process that was stopped has not hung */
        const gr_life life = gr_beat_last();
        const int64_t limit_s = atomic_load(&dog.limit_s);
        idle_s = life.beats == seen ? idle_s + TICK_S : 0;
        seen = life.beats;
        if (limit_s > 0 && idle_s >= limit_s) give_up(&life, idle_s);
    }
    return NULL;
}

gr_status gr_watchdog_start(const char *program, int64_t limit_s)
{
    gr_status st = GR_OK;
    sigset_t  all, before;
    pthread_t thread;
    int       code;

    dog.program = program;
    if (gethostname(dog.host, sizeof dog.host) != 0) snprintf(dog.host, sizeof dog.host, "?");
    dog.host[sizeof dog.host - 1] = 0;
    gr_watchdog_set(-1, limit_s);
    gr_beat_watch();
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* the thread inherits it: signals are for the others */
    code = pthread_create(&thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    GR_CHECK(code == 0, GR_ERR_NOMEM, "watchdog thread: %s", strerror(code));
    pthread_detach(thread);
    pthread_setname_np(thread, "watchdog");
out:
    return st;
}

void gr_watchdog_set(int rank, int64_t limit_s)
{
    atomic_store(&dog.rank, rank);
    atomic_store(&dog.limit_s, limit_s);
}
