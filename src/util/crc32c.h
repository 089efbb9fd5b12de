/** @file crc32c.h  CRC-32C (Castagnoli), the checksum of every file Graft writes.  [local]
 *
 * SSE4.2 where the CPU has it, three lanes at a time (15 to 20 GB/s per core from its cache), slicing tables elsewhere;
 * same value.
 * Source  RFC 3720, appendix B.4 (test vectors in tests/unit/test_crc32c.c).
 */
#ifndef GR_UTIL_CRC32C_H
#define GR_UTIL_CRC32C_H
#include "util/status.h"
#include <stddef.h>
#include <stdint.h>

GR_C_BEGIN
/** Continue `crc` (0 to start) over n bytes: crc(a||b) == gr_crc32c(gr_crc32c(0, a), b). */
uint32_t gr_crc32c(uint32_t crc, const void *data, size_t n);

/** Size and CRC-32C of a whole file. GR_ERR_INPUT when it is no regular file or cannot be read to its end. */
gr_status gr_crc32c_file(const char *path, uint64_t *bytes, uint32_t *crc);

/** The same value by tables, as on a CPU without SSE4.2; public so that a test can compare the two. */
uint32_t gr_crc32c_portable(uint32_t crc, const void *data, size_t n);

/** The checksum of a||b from those of a and b; n is the length of b. */
uint32_t gr_crc32c_combine(uint32_t a, uint32_t b, uint64_t n);
GR_C_END
#endif
