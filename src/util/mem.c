#include "util/mem.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Blocks of HUGE bytes and more ask for huge pages, where the system leaves that to programs: a pass over parameters
 * and moments walks gigabytes, and with pages of 4 KiB waits for the page tables as well; first touch is a fault per 2
 * MiB instead of 512 of them. */
enum { ALIGN = 64, PAGE = 2 << 20, HUGE_BLOCK = 8 << 20 };

/* In front of every block, ALIGN bytes: its size, so that realloc knows what to keep. */
typedef struct header {
    uint64_t bytes;
} header;

static atomic_int_fast64_t live;

static header *header_of(void *block)
{
    return (header *)((char *)block - ALIGN);
}

gr_status gr_alloc(void *p, uint64_t n, uint64_t size, const char *what)
{
    gr_status st = GR_OK;
    uint64_t  bytes = 0, align;
    char     *raw = NULL;

    GR_CHECK(!__builtin_mul_overflow(n, size, &bytes) && bytes < (UINT64_C(1) << 48), GR_ERR_NOMEM,
             "%s: %llu x %llu bytes is more than any machine has", what, (unsigned long long)n,
             (unsigned long long)size);
    align = bytes < HUGE_BLOCK ? ALIGN : PAGE;
    raw = aligned_alloc(align, (ALIGN + bytes + align - 1) / align * align);
    GR_CHECK(raw, GR_ERR_NOMEM, "%s: cannot allocate %llu bytes", what, (unsigned long long)bytes);
    if (bytes >= HUGE_BLOCK) madvise(raw, bytes, MADV_HUGEPAGE); /* a wish: whatever it returns, the memory is there */
    memset(raw, 0, ALIGN + bytes);
    ((header *)(void *)raw)->bytes = bytes;
    *(void **)p = raw + ALIGN;
    atomic_fetch_add(&live, 1);
out:
    return st;
}

gr_status gr_realloc(void *p, uint64_t n, uint64_t size, const char *what)
{
    gr_status st = GR_OK;
    void     *old = *(void **)p, *fresh = NULL;

    GR_TRY(gr_alloc(&fresh, n, size, what));
    if (old) {
        const uint64_t had = header_of(old)->bytes, has = header_of(fresh)->bytes;
        memcpy(fresh, old, had < has ? had : has);
        gr_free(p);
    }
    *(void **)p = fresh;
out:
    return st;
}

void gr_free(void *p)
{
    void *block = *(void **)p;

    if (!block) return;
    free(header_of(block));
    *(void **)p = NULL;
    atomic_fetch_sub(&live, 1);
}

int64_t gr_mem_live(void)
{
    return (int64_t)atomic_load(&live);
}

gr_status gr_strdup(char **p, const char *s)
{
    gr_status    st = GR_OK;
    const size_t n = strlen(s) + 1;

    GR_TRY(gr_alloc(p, n, 1, "string"));
    memcpy(*p, s, n);
out:
    return st;
}
