/** @file seal.h  What makes a Graft file trustworthy: one line in its first 512 bytes, checked before HDF5 sees it.
 *
 *     GRAFT 2 <kind> bytes=<n> [content=<16 hex> ]crc32c=<8 hex>\n          padded with zero bytes to 512
 *
 * n counts the bytes after the first 512. `content` is for files that have attributes that do not matter, like the time
 * when they were made: it identifies what does matter (store/weights.h). The checksum is CRC-32C over the line up to
 * and including "crc32c=", followed by the little-endian CRC-32Cs of the 16 MiB blocks of those n bytes: no bit of the
 * file is outside it, and ranks can share its computation.
 */
#ifndef GR_STORE_SEAL_H
#define GR_STORE_SEAL_H
#include "comm/comm.h"
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN

enum { GR_SEAL_BYTES = 512, GR_SEAL_BLOCK = 16 << 20, GR_KIND_MAX = 32 };

typedef struct gr_seal {
    char     kind[GR_KIND_MAX + 1]; /**< [a-z0-9_-]+                                               */
    uint64_t bytes;                 /**< after the first 512                                       */
    char     content[17];           /**< 16 hex digits, or ""                                      */
    uint32_t crc;
    char     id[17]; /**< identifies the file, to the last byte: bytes (lower half) and crc in hex */
} gr_seal;

/** [collective] Seal the complete file `tmp` and publish it: fsync, checksum, seal, fsync, rename to `path`, fsync of
 * the directory. Reads the file once, each rank its blocks. `content` is 16 hex digits or "", the same on all ranks. On
 * failure rank 0 removes `tmp`. */
gr_status gr_seal_publish(const gr_comm *c, const char *tmp, const char *path, const char *kind, const char *content);

/** Bytes of a file whose CRC-32C is known, because they were in memory when they were written. */
typedef struct gr_extent {
    uint64_t offset, bytes; /**< from the start of the file; crosses no border GR_SEAL_BYTES + i * GR_SEAL_BLOCK */
    uint32_t crc;
} gr_extent;

/** [local] The same for a file of which most is known: only what lies between the extents (sorted here) is read.
 * fd: `tmp`, open for reading and writing. One fsync, for data and seal together. `tmp` stays on failure. */
gr_status gr_seal_publish_known(int fd, const char *tmp, const char *path, const char *kind, gr_extent *extent,
                                int64_t n, gr_seal *seal);

/** [collective] Verify seal, size and checksum, each rank its blocks. kind NULL accepts any.
 * GR_ERR_INPUT names the file, what was found and what was expected. */
gr_status gr_seal_verify(const gr_comm *c, const char *path, const char *kind, gr_seal *seal);

/** [local] The same, past the page cache where the file system lets us: what the disk gives back. */
gr_status gr_seal_verify_disk(const char *path, const char *kind, gr_seal *seal);

/** [local] Read the seal of a file, and check it against the file's size but not against its content. */
gr_status gr_seal_read(const char *path, const char *kind, gr_seal *seal);

/** [local] The same, and leave the file open for reading. */
gr_status gr_seal_open(const char *path, const char *kind, gr_seal *seal, int *fd);

/** The crc of a file of this kind, content and size from the checksums of its blocks. */
uint32_t gr_seal_fold(const gr_seal *s, const int64_t *block);

GR_C_END
#endif
