/** @file stream.h  Stretches of a file from beginning to end, once: the disk goes on while a piece is looked at.
 * [local]
 *
 * Past the page cache (O_DIRECT, where the file system lets us): pieces of 16 MiB, the last one looked at by another
 * thread while the next is read; what the cache holds proves nothing and stays as it is. Through the cache: pieces that
 * fit in a processor's own cache, the system being asked for what comes next.
 */
#ifndef GR_STORE_STREAM_H
#define GR_STORE_STREAM_H
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

/** n bytes that begin at byte `offset` of the file; one call at a time, in order. */
typedef void (*gr_stream_look)(void *user, const char *data, uint64_t offset, uint64_t n);

typedef struct gr_stretch {
    uint64_t begin, end; /**< bytes [begin, end) of the file */
} gr_stretch;

/** n stretches of fd, open for reading, in this order; `path` is for messages. GR_ERR_INPUT when the file ends early.
 */
gr_status gr_stream(int fd, const char *path, const gr_stretch *s, int64_t n, bool past_cache, gr_stream_look look,
                    void *user);

#endif
