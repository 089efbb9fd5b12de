#include "store/lock.h"
#include "util/fs.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    LOCK_TRIES = 100, /* ten seconds: the ranks of a killed mpirun live one or two */
    LOCK_PAUSE_MS = 100,
    HOLDER = 256 /* bytes of what a lock says of its holder */
};

/* Try once. *lock stays -1 when somebody else has it; `holder` is then what he wrote into it. */
static gr_status try_lock(const char *path, int *lock, char holder[HOLDER])
{
    gr_status   st = GR_OK;
    struct stat mine, there;
    ssize_t     n;
    int         file;

    file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    GR_CHECK(file >= 0, gr_place_error(errno), "%s: %s", path, strerror(errno));
    if (!flock(file, LOCK_EX | LOCK_NB)) {
        /* Had someone removed the file, two runs could each lock their own. */
        if (!fstat(file, &mine) && !stat(path, &there) && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) {
            *lock = file;
            file = -1;
        }
    } else {
        GR_CHECK(errno == EWOULDBLOCK || errno == EINTR, GR_ERR_IO, "%s: flock: %s", path, strerror(errno));
        n = pread(file, holder, HOLDER - 1, 0);
        holder[n > 0 ? n : 0] = 0;
        holder[strcspn(holder, "\n")] = 0;
    }
out:
    if (file >= 0) close(file);
    return st;
}

gr_status gr_lock_take(int *lock, const char *path)
{
    gr_status             st = GR_OK;
    char                  holder[HOLDER] = "";
    const struct timespec pause = {0, LOCK_PAUSE_MS * 1000000L};

    for (int i = 0; i < LOCK_TRIES; i++) {
        GR_TRY(try_lock(path, lock, holder));
        if (*lock >= 0) goto out;
        if (i == 0) gr_log("%s: waiting for the lock, held by %s", path, holder);
        nanosleep(&pause, NULL);
    }
    GR_FAIL(GR_LOCKED, "%s: another run works here: %s", path, holder);
out:
    return st;
}

gr_status gr_lock_sign(int lock, const char *path, const char *note)
{
    gr_status       st = GR_OK;
    char            host[64] = "?", when[32] = "?", text[HOLDER];
    struct timespec now = {0};
    struct tm       utc;

    clock_gettime(CLOCK_REALTIME, &now);
    gethostname(host, sizeof host - 1);
    if (gmtime_r(&now.tv_sec, &utc)) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    snprintf(text, sizeof text, "host %s, pid %ld, since %s%s%.80s\n", host, (long)getpid(), when, *note ? ", " : "",
             note);
    GR_CHECK(!ftruncate(lock, 0), GR_ERR_IO, "%s: %s", path, strerror(errno));
    GR_TRY(gr_pwrite_all(lock, text, strlen(text), 0, path));
out:
    return st;
}

void gr_lock_remove(int *lock, const char *path)
{
    if (*lock >= 0) unlink(path); /* first: it is still ours */
    gr_lock_close(lock);
}

void gr_lock_close(int *lock)
{
    if (*lock >= 0) close(*lock);
    *lock = -1;
}
