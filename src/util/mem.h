/** @file mem.h  Counted host memory.  [local]
 *
 * Every block is counted, and gr_mem_live() must be zero when a program ends: each test is a leak
 * test. Blocks are aligned to 64 bytes (one cache line, one AVX-512 register) and zeroed.
 */
#ifndef GR_UTIL_MEM_H
#define GR_UTIL_MEM_H
#include "util/status.h"
#include <stddef.h>
#include <stdint.h>

GR_C_BEGIN

/** Allocate n * size zeroed bytes into *p (n = 0 gives a valid pointer). GR_ERR_NOMEM, also on
 * overflow, is logged with `what`. */
gr_status gr_alloc(void *p, uint64_t n, uint64_t size, const char *what);

/** Resize to n * size bytes, keeping the old contents; new bytes are zero. *p may be NULL. */
gr_status gr_realloc(void *p, uint64_t n, uint64_t size, const char *what);

/** Free *p and set it to NULL. p points to the pointer. */
void gr_free(void *p);

/** Blocks allocated and not yet freed in this process. */
int64_t gr_mem_live(void);

/** Duplicate a string into counted memory. */
gr_status gr_strdup(char **p, const char *s);

GR_C_END
#endif
