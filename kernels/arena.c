#include "kernels/arena.h"
#include "util/mem.h"

enum { ALIGN = 64, MAX_BLOCK = 48 }; /* blocks at least double the total: 48 of them exceed any machine */

static const int64_t FIRST_BLOCK = 1 << 20;

typedef struct block {
    void   *data;
    int64_t bytes, used;
} block;

struct gr_arena {
    const gr_ops *ops;
    char         *what;
    gr_status     status; /* the first failure since the last reset */
    int           n_block, at;
    int64_t       in_use, peak;
    block         block[MAX_BLOCK];
};

/* A further block of `bytes`, or, when so much is not to be had, of the `need` bytes at hand. */
static gr_status add_block(gr_arena *a, int64_t need)
{
    gr_status st = GR_OK;
    int64_t   total = 0, bytes;
    block    *b = &a->block[a->n_block];

    GR_CHECK(a->n_block < MAX_BLOCK, GR_ERR_NOMEM, "%s: more than %d blocks", a->what, MAX_BLOCK);
    for (int i = 0; i < a->n_block; i++) total += a->block[i].bytes;
    bytes = total > FIRST_BLOCK ? total : FIRST_BLOCK;
    if (bytes < need) bytes = need;
    st = a->ops->alloc(&b->data, (uint64_t)bytes, a->what);
    if (st != GR_OK && bytes > need) {
        bytes = need;
        st = a->ops->alloc(&b->data, (uint64_t)bytes, a->what);
    }
    GR_TRY(st);
    b->bytes = bytes;
    b->used = 0;
    a->at = a->n_block++;
out:
    return st;
}

static void free_blocks(gr_arena *a)
{
    for (int i = 0; i < a->n_block; i++) a->ops->free(&a->block[i].data);
    a->n_block = 0;
    a->at = 0;
    a->in_use = 0;
}

gr_status gr_arena_open(gr_arena **a, const gr_ops *ops, const char *what)
{
    gr_status st = GR_OK;
    gr_arena *fresh = NULL;

    GR_TRY(gr_alloc(&fresh, 1, sizeof *fresh, what));
    GR_TRY(gr_strdup(&fresh->what, what));
    fresh->ops = ops;
    *a = fresh;
    fresh = NULL;
out:
    gr_free(&fresh);
    return st;
}

void gr_arena_close(gr_arena **a)
{
    if (!*a) return;
    free_blocks(*a);
    gr_free(&(*a)->what);
    gr_free(a);
}

gr_tensor gr_arena_take(gr_arena *a, gr_dtype t, int rank, const int64_t *dim)
{
    gr_tensor v = {NULL, t, rank, {1, 1, 1, 1}};
    int64_t   bytes = gr_dtype_size(t);
    bool      wrapped = false;
    block    *b;

    for (int i = 0; i < rank; i++) {
        v.dim[i] = dim[i];
        wrapped |= dim[i] < 0 || __builtin_mul_overflow(bytes, dim[i], &bytes);
    }
    if (wrapped || bytes > INT64_MAX - ALIGN) {
        if (a->status == GR_OK) a->status = gr_fail(__FILE__, __LINE__, GR_ERR_NOMEM, "%s: size overflows", a->what);
        return v;
    }
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;

    /* The block in use, else a later one that an earlier mark left empty, else a new one. */
    while (a->at < a->n_block && a->block[a->at].bytes - a->block[a->at].used < bytes) a->at++;
    if (a->at == a->n_block) {
        const gr_status st = add_block(a, bytes > 0 ? bytes : ALIGN);

        if (st != GR_OK) {
            if (a->n_block) a->at = a->n_block - 1;
            if (a->status == GR_OK) a->status = st;
            return v;
        }
    }
    b = &a->block[a->at];
    v.data = (char *)b->data + b->used;
    b->used += bytes;
    a->in_use += bytes;
    if (a->in_use > a->peak) a->peak = a->in_use;
    return v;
}

gr_mark gr_arena_mark(const gr_arena *a)
{
    gr_mark m = {a->n_block ? a->block[a->at].used : 0, a->at};
    return m;
}

void gr_arena_release(gr_arena *a, gr_mark mark)
{
    for (int i = mark.block; i < a->n_block; i++) {
        const int64_t keep = i == mark.block ? mark.used : 0;

        a->in_use -= a->block[i].used - keep;
        a->block[i].used = keep;
    }
    a->at = mark.block;
}

gr_status gr_arena_reset(gr_arena *a)
{
    gr_status st = GR_OK;

    a->status = GR_OK;
    if (a->n_block > 1) {
        free_blocks(a);
        GR_TRY(add_block(a, a->peak));
    }
    if (a->n_block) a->block[0].used = 0;
    a->at = 0;
    a->in_use = 0;
out:
    a->status = st;
    return st;
}

gr_status gr_arena_status(const gr_arena *a)
{
    return a->status;
}

int64_t gr_arena_peak(const gr_arena *a)
{
    return a->peak;
}
