#include "util/fs.h"
#include "util/beat.h"
#include "util/mem.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PIECE = 1 << 30, /* bytes per read or write call: Linux stops at 2 GiB anyway */
    NAME_KEPT = 200, /* of a file's name in its temporary name (NAME_MAX is 255)  */
    TREE_DEPTH = 8
};

gr_status gr_path(char dst[GR_PATH_MAX], const char *fmt, ...)
{
    gr_status st = GR_OK;
    va_list   ap;
    int       n;

    va_start(ap, fmt);
    n = vsnprintf(dst, GR_PATH_MAX, fmt, ap);
    va_end(ap);
    GR_CHECK(n >= 0 && n < GR_PATH_MAX, GR_ERR_CONFIG, "%.60s...: path longer than %d bytes", dst, GR_PATH_MAX - 1);
out:
    return st;
}

gr_status gr_open_input(const char *path, int *fd, uint64_t *size)
{
    gr_status   st = GR_OK;
    const char *before = gr_beat("opening a file");
    struct stat sb;
    int         file;

    file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* NONBLOCK: a fifo must not hang us */
    GR_CHECK(file >= 0, GR_ERR_INPUT, "%s: %s", path, strerror(errno));
    GR_CHECK(!fstat(file, &sb), GR_ERR_IO, "%s: fstat: %s", path, strerror(errno));
    GR_CHECK(S_ISREG(sb.st_mode), GR_ERR_INPUT, "%s: not a regular file", path);
    *fd = file;
    *size = (uint64_t)sb.st_size;
out:
    gr_beat(before);
    if (st != GR_OK && file >= 0) close(file);
    return st;
}

gr_status gr_read_file(const char *path, uint64_t limit, char **data, uint64_t *n)
{
    gr_status st = GR_OK;
    int       fd = -1;
    uint64_t  size = 0;
    char     *text = NULL;

    GR_TRY(gr_open_input(path, &fd, &size));
    GR_CHECK(size <= limit, GR_ERR_INPUT, "%s: %" PRIu64 " bytes, at most %" PRIu64 " are read", path, size, limit);
    GR_TRY(gr_alloc(&text, size + 1, 1, path));
    GR_TRY(gr_pread_all(fd, text, size, 0, path));
    *data = text;
    *n = size;
    text = NULL;
out:
    gr_free(&text);
    if (fd >= 0) close(fd);
    return st;
}

gr_status gr_fsync(int fd, const char *path)
{
    gr_status   st = GR_OK;
    const char *before = gr_beat("fsync");

    GR_CHECK(!fsync(fd), GR_ERR_IO, "%s: fsync: %s", path, strerror(errno));
out:
    gr_beat(before);
    return st;
}

gr_status gr_write_file(const char *path, const void *data, uint64_t n)
{
    gr_status st = GR_OK;
    char      tmp[GR_PATH_MAX] = "";
    int       fd = -1, failed;

    GR_TRY(gr_temporary(tmp, path));
    unlink(tmp); /* of a dead process that had our pid */
    fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    GR_CHECK(fd >= 0, GR_ERR_IO, "%s: %s", tmp, strerror(errno));
    GR_TRY(gr_pwrite_all(fd, data, n, 0, tmp));
    GR_TRY(gr_fsync(fd, tmp));
    failed = close(fd);
    fd = -1;
    GR_CHECK(!failed, GR_ERR_IO, "%s: close: %s", tmp, strerror(errno));
    GR_TRY(gr_publish(tmp, path));
out:
    if (fd >= 0) close(fd);
    if (st != GR_OK && *tmp) unlink(tmp);
    return st;
}

gr_status gr_pread_all(int fd, void *data, uint64_t n, uint64_t offset, const char *path)
{
    gr_status   st = GR_OK;
    const char *before = gr_beat("reading");
    char       *p = data;

    while (n > 0) {
        const ssize_t k = pread(fd, p, n < PIECE ? n : PIECE, (off_t)offset);
        if (k < 0 && errno == EINTR) continue;
        GR_CHECK(k >= 0, GR_ERR_IO, "%s: read at byte %" PRIu64 ": %s", path, offset, strerror(errno));
        GR_CHECK(k > 0, GR_ERR_INPUT, "%s: ends at byte %" PRIu64 ", %" PRIu64 " more expected", path, offset, n);
        p += k;
        offset += (uint64_t)k;
        n -= (uint64_t)k;
        gr_beat_again();
    }
out:
    gr_beat(before);
    return st;
}

gr_status gr_pwrite_all(int fd, const void *data, uint64_t n, uint64_t offset, const char *path)
{
    gr_status   st = GR_OK;
    const char *before = gr_beat("writing"), *p = data;

    while (n > 0) {
        const ssize_t k = pwrite(fd, p, n < PIECE ? n : PIECE, (off_t)offset);
        if (k < 0 && errno == EINTR) continue;
        GR_CHECK(k >= 0, GR_ERR_IO, "%s: write at byte %" PRIu64 ": %s", path, offset, strerror(errno));
        GR_CHECK(k > 0, GR_ERR_IO, "%s: write at byte %" PRIu64 ": nothing written", path, offset);
        p += k;
        offset += (uint64_t)k;
        n -= (uint64_t)k;
        gr_beat_again();
    }
out:
    gr_beat(before);
    return st;
}

gr_status gr_place_error(int cause)
{
    switch (cause) {
    case EACCES:
    case EPERM:
    case EROFS:
    case ENOTDIR:
    case ENAMETOOLONG:
    case ELOOP: return GR_ERR_CONFIG;
    default: return GR_ERR_IO;
    }
}

gr_status gr_mkdirs(const char *path)
{
    gr_status   st = GR_OK;
    char        part[GR_PATH_MAX], parent[GR_PATH_MAX];
    struct stat sb;

    GR_TRY(gr_path(part, "%s", path));
    for (char *p = part; *p;) {
        p += strspn(p, "/");
        p += strcspn(p, "/");
        const char cut = *p;
        *p = 0;
        if (*part && !mkdir(part, 0777)) {
            GR_TRY(gr_dirname(parent, part));
            GR_TRY(gr_fsync_path(parent));
        } else if (*part) {
            const int cause = errno; /* a directory that is there may answer EEXIST, EROFS or EACCES */
            GR_CHECK(!stat(part, &sb), gr_place_error(cause), "%s: mkdir: %s", part, strerror(cause));
            GR_CHECK(S_ISDIR(sb.st_mode), GR_ERR_CONFIG, "%s: not a directory", part);
        }
        *p = cut;
    }
out:
    return st;
}

gr_status gr_fsync_path(const char *path)
{
    gr_status st = GR_OK;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);

    GR_CHECK(fd >= 0, GR_ERR_IO, "%s: %s", path, strerror(errno));
    GR_TRY(gr_fsync(fd, path));
out:
    if (fd >= 0) close(fd);
    return st;
}

/* Start of the last component of a path, trailing slashes aside; *n is its length. */
static const char *base_of(const char *path, size_t *n)
{
    size_t end = strlen(path), start;

    while (end > 1 && path[end - 1] == '/') end--;
    for (start = end; start > 0 && path[start - 1] != '/'; start--) continue;
    *n = end - start;
    return path + start;
}

gr_status gr_dirname(char dst[GR_PATH_MAX], const char *path)
{
    size_t n;
    int    dir = (int)(base_of(path, &n) - path);

    while (dir > 1 && path[dir - 1] == '/') dir--;
    return dir == 0 ? gr_path(dst, "%s", ".") : gr_path(dst, "%.*s", dir, path);
}

gr_status gr_temporary(char dst[GR_PATH_MAX], const char *path)
{
    size_t      n;
    const char *base = base_of(path, &n);

    if (n > NAME_KEPT) n = NAME_KEPT;
    return gr_path(dst, "%.*s.tmp-%.*s-%ld", (int)(base - path), path, (int)n, base, (long)getpid());
}

gr_status gr_publish(const char *from, const char *to)
{
    gr_status   st = GR_OK;
    const char *before = gr_beat("renaming");
    char        dir[GR_PATH_MAX];

    GR_TRY(gr_dirname(dir, to));
    GR_CHECK(!rename(from, to), GR_ERR_IO, "%s: rename to %s: %s", from, to, strerror(errno));
    GR_TRY(gr_fsync_path(dir));
out:
    gr_beat(before);
    return st;
}

static gr_status remove_tree(const char *path, int depth)
{
    gr_status st = GR_OK;
    char    **name = NULL, child[GR_PATH_MAX];
    int64_t   n = 0;

    if (!unlink(path) || errno == ENOENT || errno == ENOTDIR) goto out;
    GR_CHECK(errno == EISDIR, GR_ERR_IO, "%s: unlink: %s", path, strerror(errno));
    GR_CHECK(depth < TREE_DEPTH, GR_ERR_IO, "%s: deeper than %d directories, left alone", path, TREE_DEPTH);
    GR_TRY(gr_list(path, &name, &n));
    for (int64_t i = 0; i < n; i++) {
        GR_TRY(gr_path(child, "%s/%s", path, name[i]));
        GR_TRY(remove_tree(child, depth + 1));
    }
    GR_CHECK(!rmdir(path) || errno == ENOENT, GR_ERR_IO, "%s: rmdir: %s", path, strerror(errno));
out:
    gr_names_free(&name, n);
    return st;
}

gr_status gr_remove_tree(const char *path)
{
    return remove_tree(path, 0);
}

bool gr_exists(const char *path)
{
    struct stat sb;

    return !stat(path, &sb);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

gr_status gr_list(const char *path, char ***names, int64_t *n)
{
    gr_status      st = GR_OK;
    DIR           *dir = NULL;
    struct dirent *entry;
    char         **name = NULL;
    int64_t        count = 0, room = 0;

    dir = opendir(path);
    GR_CHECK(dir, GR_ERR_INPUT, "%s: %s", path, strerror(errno));
    for (errno = 0; (entry = readdir(dir)); errno = 0) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (count == room) {
            room = room ? 2 * room : 64;
            GR_TRY(gr_realloc(&name, (uint64_t)room, sizeof *name, path));
        }
        GR_TRY(gr_strdup(&name[count], entry->d_name));
        count++;
    }
    GR_CHECK(errno == 0, GR_ERR_IO, "%s: readdir: %s", path, strerror(errno));
    if (!name) GR_TRY(gr_alloc(&name, 0, sizeof *name, path));
    qsort(name, (size_t)count, sizeof *name, by_bytes);
    *names = name;
    *n = count;
    name = NULL;
out:
    gr_names_free(&name, count);
    if (dir) closedir(dir);
    return st;
}

void gr_names_free(char ***names, int64_t n)
{
    if (!*names) return;
    for (int64_t i = 0; i < n; i++) gr_free(&(*names)[i]);
    gr_free(names);
}
