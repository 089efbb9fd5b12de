/* drive_inject RANK DIR WHAT K LOG PROGRAM ARGUMENT...
 *
 * Runs PROGRAM in this very process and watches the calls by which it changes what lies below DIR (an absolute path
 * without links): open for writing, write, fsync, rename, mkdir, fallocate, unlink, ... of all its threads, in the
 * order in which they are made. To the K-th (from 1) it does WHAT:
 *
 *     list                         nothing
 *     kill                         kill -9 of the process, before the call is made
 *     EIO | ENOSPC | EDQUOT | EACCES | EINTR     the call fails, this once
 *     full                         ENOSPC, and from then on to every call that needs space, as on a full disk
 *     short                        a write takes half of its bytes
 *
 * LOG gets a line per call: number, name, path, and WHAT where it was done. Only the rank RANK of an MPI job is watched
 * (a process without a launcher is rank 0). Exit code: the program's; 77 when the kernel does not let us watch.
 *
 * strace can do some of this, but counts by call and thread and knows nothing of paths. Here the kernel asks a second
 * process, forked before PROGRAM starts, about each such call (seccomp user notification), so it makes no difference
 * which library makes it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SKIP = 77 };

/* ---- the calls ---------------------------------------------------------------------------------- */

/* Which argument is what; -1: there is none. */
typedef struct call {
    const char *name;
    int         nr, fd, dirfd, path, flags;
    bool        space; /* fails on a full disk */
} call;

static const call calls[] = {
    {"openat", SYS_openat, -1, 0, 1, 2, true},
    {"write", SYS_write, 0, -1, -1, -1, true},
    {"pwrite", SYS_pwrite64, 0, -1, -1, -1, true},
    {"writev", SYS_writev, 0, -1, -1, -1, true},
    {"pwritev", SYS_pwritev, 0, -1, -1, -1, true},
    {"fsync", SYS_fsync, 0, -1, -1, -1, false},
    {"fdatasync", SYS_fdatasync, 0, -1, -1, -1, false},
    {"ftruncate", SYS_ftruncate, 0, -1, -1, -1, false},
    {"fallocate", SYS_fallocate, 0, -1, -1, -1, true},
    {"renameat", SYS_renameat, -1, 0, 1, -1, false},
    {"renameat2", SYS_renameat2, -1, 0, 1, -1, false},
    {"mkdirat", SYS_mkdirat, -1, 0, 1, -1, true},
    {"unlinkat", SYS_unlinkat, -1, 0, 1, -1, false},
#ifdef SYS_open /* what newer architectures no longer have */
    {"open", SYS_open, -1, -1, 0, 1, true},
    {"creat", SYS_creat, -1, -1, 0, -1, true},
    {"rename", SYS_rename, -1, -1, 0, -1, false},
    {"mkdir", SYS_mkdir, -1, -1, 0, -1, true},
    {"unlink", SYS_unlink, -1, -1, 0, -1, false},
    {"rmdir", SYS_rmdir, -1, -1, 0, -1, false},
#endif
};

enum { N_CALL = sizeof calls / sizeof *calls };

#if defined __x86_64__
#define ARCH AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define ARCH AUDIT_ARCH_AARCH64
#else
#define ARCH 0 /* matches nothing: the calls go on unwatched, and tests that count them skip */
#endif

/* ---- the watched process: asks before such a call ------------------------------------------------ */

static struct sock_filter load(size_t offset)
{
    return (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset);
}

static struct sock_filter answer(uint32_t what)
{
    return (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, what);
}

/* Opening counts when it may change something. Returns the listener, or -1. */
static int ask_from_now_on(void)
{
    const uint32_t     changes = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC;
    struct sock_filter f[4 + 5 * N_CALL + 1];
    unsigned short     n = 0;

    f[n++] = load(offsetof(struct seccomp_data, arch));
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
    f[n++] = answer(SECCOMP_RET_ALLOW);
    f[n++] = load(offsetof(struct seccomp_data, nr));
    for (int i = 0; i < N_CALL; i++) {
        const int flags = calls[i].flags;
        f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i].nr, 0, flags < 0 ? 1 : 4);
        if (flags >= 0) {
            f[n++] = load(offsetof(struct seccomp_data, args) + 8 * (size_t)flags);
            f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, changes, 1, 0);
            f[n++] = answer(SECCOMP_RET_ALLOW);
        }
        f[n++] = answer(SECCOMP_RET_USER_NOTIF);
    }
    f[n++] = answer(SECCOMP_RET_ALLOW);
    const struct sock_fprog program = {n, f};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* A file descriptor through a socket, to (fd >= 0) or from the other process (fd -1). */
static int hand_over(int socket, int fd)
{
    char          byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec  data = {&byte, 1};
    struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};

    if (fd >= 0) {
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
        return sendmsg(socket, &m, 0) == 1 ? fd : -1;
    }
    if (recvmsg(socket, &m, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&m)) return -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

/* ---- the watching process: answers ----------------------------------------------------------------- */

typedef struct watch {
    const char *dir, *what;
    int         listener, log;
    pid_t       target;
    int64_t     k, seen;
} watch;

/* The absolute path that a call is about, or "". */
static void path_of(const call *c, const struct seccomp_notif *n, char path[PATH_MAX])
{
    char      link[64], text[PATH_MAX], base[PATH_MAX];
    const int fd = c->fd >= 0 ? (int)n->data.args[c->fd] : c->dirfd >= 0 ? (int)n->data.args[c->dirfd] : AT_FDCWD;
    ssize_t   k = 0;

    *path = 0;
    if (c->path >= 0) {
        snprintf(link, sizeof link, "/proc/%d/mem", (int)n->pid);
        const int mem = open(link, O_RDONLY | O_CLOEXEC);
        k = pread(mem, text, sizeof text - 1, (off_t)n->data.args[c->path]);
        close(mem);
        if (k <= 0) return;
        text[k] = 0;
        if (*text == '/') {
            snprintf(path, PATH_MAX, "%s", text);
            return;
        }
    }
    if (fd == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/%d/cwd", (int)n->pid);
    else
        snprintf(link, sizeof link, "/proc/%d/fd/%d", (int)n->pid, fd);
    k = readlink(link, base, sizeof base - 1);
    if (k <= 0) return;
    base[k] = 0;
    if (c->path < 0)
        snprintf(path, PATH_MAX, "%s", base);
    else if (snprintf(path, PATH_MAX, "%s/%s", base, text) >= PATH_MAX)
        *path = 0;
}

static bool below(const char *path, const char *dir)
{
    const size_t n = strlen(dir);

    return !strncmp(path, dir, n) && (path[n] == '/' || !path[n]);
}

/* Half of a write, on the target's own open file. Returns its result as a system call would; 1: not a call that can be
 * short. */
static int64_t write_half(const watch *w, const call *c, const struct seccomp_notif *n)
{
    const __u64 *arg = n->data.args;
    const bool   at = c->nr == SYS_pwrite64;
    const size_t half = arg[2] >= 8192 ? arg[2] / 2 / 4096 * 4096 : arg[2] / 2;
    char         link[64], *data;
    int64_t      done = -EIO;

    if ((c->nr != SYS_write && !at) || half == 0) return 1;
    snprintf(link, sizeof link, "/proc/%d/mem", (int)w->target);
    const int pid = (int)syscall(SYS_pidfd_open, w->target, 0);
    const int fd = (int)syscall(SYS_pidfd_getfd, pid, (int)arg[0], 0), mem = open(link, O_RDONLY | O_CLOEXEC);
    if (!posix_memalign((void **)&data, 4096, half + 4096)) {
        if (pread(mem, data, half, (off_t)arg[1]) == (ssize_t)half)
            done = at ? pwrite(fd, data, half, (off_t)arg[3]) : write(fd, data, half);
        if (done < 0) done = -errno;
        free(data);
    }
    close(mem);
    close(fd);
    close(pid);
    return done;
}

static int error_of(const char *what)
{
    static const struct {
        const char *name;
        int         value;
    } known[] = {{"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT},
                 {"EACCES", EACCES}, {"EINTR", EINTR},   {"full", ENOSPC}};

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(what, known[i].name)) return known[i].value;
    return 0;
}

/* What becomes of one call below DIR; true: something was done to it. */
static bool decide(watch *w, const call *c, const struct seccomp_notif *n, struct seccomp_notif_resp *r)
{
    const bool full = !strcmp(w->what, "full");
    int64_t    half;

    if (w->seen != w->k && !(full && w->seen > w->k)) return false;
    if (!strcmp(w->what, "list") || (full && !c->space)) return false;
    if (!strcmp(w->what, "kill")) {
        kill((pid_t)n->pid, SIGKILL);
        return true;
    }
    if (!strcmp(w->what, "short")) {
        half = write_half(w, c, n);
        if (half == 1) return false;
        r->val = half >= 0 ? half : 0;
        r->error = half < 0 ? (int32_t)half : 0;
    } else {
        r->error = -error_of(w->what);
    }
    r->flags = 0;
    return true;
}

static void one_call(watch *w, const struct seccomp_notif *n)
{
    struct seccomp_notif_resp r = {.id = n->id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    const call               *c = calls;
    char                      path[PATH_MAX];
    bool                      done = false;

    while (c->nr != n->data.nr) c++;
    path_of(c, n, path);
    if (below(path, w->dir)) {
        w->seen++;
        done = decide(w, c, n, &r);
        dprintf(w->log, "%lld %s %s%s%s\n", (long long)w->seen, c->name,
                path[strlen(w->dir)] ? path + strlen(w->dir) + 1 : ".", done ? " <- " : "", done ? w->what : "");
    }
    ioctl(w->listener, SECCOMP_IOCTL_NOTIF_SEND, &r); /* ENOENT: it was killed meanwhile */
}

static void watch_until_it_ends(watch *w)
{
    struct seccomp_notif n;

    for (;;) {
        memset(&n, 0, sizeof n);
        if (ioctl(w->listener, SECCOMP_IOCTL_NOTIF_RECV, &n) == 0)
            one_call(w, &n);
        else if (errno != EINTR && errno != ENOENT)
            return;
    }
}

int main(int argc, char **argv)
{
    watch       w = {.target = getpid()};
    int         pair[2];
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");

    if (argc < 7) {
        fprintf(stderr, "usage: drive_inject RANK DIR WHAT K LOG PROGRAM ARGUMENT...\n");
        return 2;
    }
    if (atoi(rank ? rank : "0") != atoi(argv[1])) goto run;
    w.dir = argv[2];
    w.what = argv[3];
    w.k = atoll(argv[4]);
    w.log = open(argv[5], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (w.log < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        perror(argv[5]);
        return 2;
    }
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); /* where a child may otherwise not read its parent's memory */
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != w.target) _exit(0);
        for (int fd = 0; fd < 3; fd++) close(fd); /* nobody waits for our end of a pipe */
        w.listener = hand_over(pair[1], -1);
        if (w.listener >= 0) watch_until_it_ends(&w);
        _exit(0);
    }
    w.listener = ask_from_now_on();
    if (w.listener < 0 || hand_over(pair[0], w.listener) < 0) {
        fprintf(stderr, "calls cannot be watched here: %s\n", strerror(errno));
        return SKIP;
    }
    close(w.listener); /* the other process has it */
run:
    execvp(argv[6], argv + 6);
    perror(argv[6]);
    return 127;
}
