/** @file fs.h  The file system calls that must not be got wrong.  [local]
 *
 * Paths are UTF-8 or not, as the user typed them. Every function logs the path and errno.
 */
#ifndef GR_UTIL_FS_H
#define GR_UTIL_FS_H
#include "util/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

GR_C_BEGIN

enum { GR_PATH_MAX = 4096 };

/** dst = printf(fmt...); GR_ERR_CONFIG when longer than GR_PATH_MAX. */
gr_status gr_path(char dst[GR_PATH_MAX], const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** Open a regular file for reading; *size in bytes. Symbolic links are followed: a model in the Hugging Face
 * cache is a directory of them. GR_ERR_INPUT when it is missing, unreadable or not a regular file. Close with close(2).
 */
gr_status gr_open_input(const char *path, int *fd, uint64_t *size);

/** Read a whole regular file into counted memory (*data is NUL-terminated, *n excludes the NUL).
 * GR_ERR_INPUT when it is missing, not a regular file, or larger than `limit` bytes. */
gr_status gr_read_file(const char *path, uint64_t limit, char **data, uint64_t *n);

/** Write n bytes so that `path` holds either the old content or all of the new:
 * temporary file, fsync, rename, fsync of the directory. */
gr_status gr_write_file(const char *path, const void *data, uint64_t n);

/** pread/pwrite until all n bytes are done. GR_ERR_INPUT when the file ends early; GR_ERR_IO. */
gr_status gr_pread_all(int fd, void *data, uint64_t n, uint64_t offset, const char *path);
gr_status gr_pwrite_all(int fd, const void *data, uint64_t n, uint64_t offset, const char *path);

/** What an errno means for an output that cannot be made: GR_ERR_CONFIG where trying again cannot cure it, because
 * somebody named the wrong place; else GR_ERR_IO. */
gr_status gr_place_error(int cause);

/** mkdir -p; new directories are on disk when it returns. GR_ERR_CONFIG where it is not allowed, or a file is in the
 * way; GR_ERR_IO. */
gr_status gr_mkdirs(const char *path);

/** fsync(2); `path` leads the message. */
gr_status gr_fsync(int fd, const char *path);

/** fsync a file or a directory by path. */
gr_status gr_fsync_path(const char *path);

/** Directory part of a path ("." when it has none). */
gr_status gr_dirname(char dst[GR_PATH_MAX], const char *path);

/** Where `path` is built before it is published: <directory>/.tmp-<name>-<pid>. */
gr_status gr_temporary(char dst[GR_PATH_MAX], const char *path);

/** rename(2), then fsync of the target's directory: the commit point of everything we publish. */
gr_status gr_publish(const char *from, const char *to);

/** Remove a file, or a directory and what is in it (8 levels); links are removed, not followed. Missing is fine. */
gr_status gr_remove_tree(const char *path);

bool gr_exists(const char *path);

/** Names in a directory, sorted bytewise, without "." and "..". Free each and the array with
 * gr_names_free. */
gr_status gr_list(const char *path, char ***names, int64_t *n);
void      gr_names_free(char ***names, int64_t n);

GR_C_END
#endif
