/** @file arena.h  Backend memory for one step: bump allocation, freed all at once.  [leaf]
 *
 * The first step finds out how much a step needs (blocks are added as they are asked for); gr_arena_reset then
 * merges them into one, so that from the second step on nothing is allocated. Running out of memory ends the
 * call that opened the step, not a kernel: gr_arena_take returns a view with data NULL and remembers the
 * failure, and gr_arena_status tells.
 */
#ifndef GR_KERNELS_ARENA_H
#define GR_KERNELS_ARENA_H
#include "kernels/backend.h"

GR_C_BEGIN
typedef struct gr_arena gr_arena;

gr_status gr_arena_open(gr_arena **a, const gr_ops *ops, const char *what);
void      gr_arena_close(gr_arena **a);

/** A fresh tensor, not initialised, aligned to 64 bytes. Lives until the reset or release that covers it.
 * When memory is out the process logs, the view points to NULL, and gr_arena_status tells. */
gr_tensor gr_arena_take(gr_arena *a, gr_dtype t, int rank, const int64_t *dim);

static inline gr_tensor gr_take1(gr_arena *a, gr_dtype t, int64_t n)
{
    return gr_arena_take(a, t, 1, &n);
}
static inline gr_tensor gr_take2(gr_arena *a, gr_dtype t, int64_t n, int64_t m)
{
    const int64_t dim[2] = {n, m};
    return gr_arena_take(a, t, 2, dim);
}
static inline gr_tensor gr_take3(gr_arena *a, gr_dtype t, int64_t n, int64_t m, int64_t k)
{
    const int64_t dim[3] = {n, m, k};
    return gr_arena_take(a, t, 3, dim);
}

/** Everything taken since `mark` is free again. */
typedef struct gr_mark {
    int64_t used;
    int     block;
} gr_mark;
gr_mark gr_arena_mark(const gr_arena *a);
void    gr_arena_release(gr_arena *a, gr_mark mark);

/** Free all; merge the blocks into one. GR_ERR_NOMEM when that fails. */
gr_status gr_arena_reset(gr_arena *a);

/** GR_OK, or why the first take that failed since the last reset did. Ask before computing with what was taken. */
gr_status gr_arena_status(const gr_arena *a);

/** Most bytes ever in use. */
int64_t gr_arena_peak(const gr_arena *a);
GR_C_END
#endif
