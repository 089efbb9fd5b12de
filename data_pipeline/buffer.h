/** @file buffer.h  Growing arrays of token ids and of bytes.  [local]
 *
 * Zero-initialise to start; gr_ids_close / gr_bytes_close free. Capacity doubles and is kept when a
 * buffer is emptied (n = 0), so that the hot path stops allocating.
 */
#ifndef GR_DATA_PIPELINE_BUFFER_H
#define GR_DATA_PIPELINE_BUFFER_H
#include "util/mem.h"
#include "util/status.h"
#include <stdint.h>
#include <string.h>

GR_C_BEGIN

typedef struct gr_ids {
    uint32_t *v; /**< owned */
    int64_t   n, cap;
} gr_ids;

typedef struct gr_bytes {
    char   *v; /**< owned; not NUL-terminated */
    int64_t n, cap;
} gr_bytes;

/** Make room for `more` further elements. GR_ERR_NOMEM. */
static inline gr_status gr_ids_reserve(gr_ids *b, int64_t more)
{
    gr_status st = GR_OK;

    if (b->n + more > b->cap) {
        const int64_t cap = b->n + more > 2 * b->cap ? b->n + more : 2 * b->cap;
        GR_TRY(gr_realloc(&b->v, (uint64_t)cap, sizeof *b->v, "token ids"));
        b->cap = cap;
    }
out:
    return st;
}

static inline gr_status gr_bytes_reserve(gr_bytes *b, int64_t more)
{
    gr_status st = GR_OK;

    if (b->n + more > b->cap) {
        const int64_t cap = b->n + more > 2 * b->cap ? b->n + more : 2 * b->cap;
        GR_TRY(gr_realloc(&b->v, (uint64_t)cap, 1, "text"));
        b->cap = cap;
    }
out:
    return st;
}

static inline gr_status gr_ids_push(gr_ids *b, uint32_t id)
{
    gr_status st = GR_OK;

    if (b->n == b->cap) GR_TRY(gr_ids_reserve(b, 64));
    b->v[b->n++] = id;
out:
    return st;
}

static inline gr_status gr_bytes_push(gr_bytes *b, const void *data, int64_t n)
{
    gr_status st = GR_OK;

    GR_TRY(gr_bytes_reserve(b, n));
    if (n > 0) memcpy(b->v + b->n, data, (size_t)n);
    b->n += n;
out:
    return st;
}

static inline void gr_ids_close(gr_ids *b)
{
    gr_free(&b->v);
    b->n = b->cap = 0;
}

static inline void gr_bytes_close(gr_bytes *b)
{
    gr_free(&b->v);
    b->n = b->cap = 0;
}

GR_C_END
#endif
