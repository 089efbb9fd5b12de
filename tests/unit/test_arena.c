/* Bump allocation: views apart, marks, merging, and memory that runs out. */
/*TEST
np: 1
timeout: 10
*/
#include "kernels/arena.h"
#include "tests/check.h"
#include <string.h>

static int     n_alloc, fail_after = -1; /* alloc calls so far; refuse from this one on */
static int64_t granted;

static gr_status counted_alloc(void **p, uint64_t bytes, const char *what)
{
    if (fail_after >= 0 && n_alloc >= fail_after) return GR_ERR_NOMEM;
    n_alloc++;
    granted += (int64_t)bytes;
    return gr_alloc(p, bytes, 1, what);
}
static void counted_free(void **p)
{
    gr_free(p);
}

static const gr_ops ops = {.name = "test", .alloc = counted_alloc, .free = counted_free};

static void shapes(void)
{
    const int64_t dim[4] = {3, 5, 7, 2};
    gr_arena     *a = NULL;
    gr_tensor     t, u;

    CHECK(gr_arena_open(&a, &ops, "test") == GR_OK, "open");
    t = gr_arena_take(a, GR_BF16, 4, dim);
    u = gr_take1(a, GR_F32, 0);
    CHECK(t.rank == 4 && t.dim[0] == 3 && t.dim[3] == 2 && t.dtype == GR_BF16 && gr_count(t) == 210, "shape");
    CHECK(u.data && gr_count(u) == 0 && u.dim[1] == 1, "empty tensor");
    t = gr_take3(a, GR_F32, 2, 3, 4);
    CHECK(t.rank == 3 && gr_row(t) == 12 && t.dim[3] == 1, "take3");
    gr_arena_close(&a);
    CHECK(a == NULL, "close");
    gr_arena_close(&a); /* NULL is fine */
}

/* Odd sizes, some larger than any block so far; every tensor keeps what was written into it. */
static void apart(gr_arena *a, int n)
{
    gr_tensor t[100];

    for (int i = 0; i < n; i++) {
        t[i] = gr_take1(a, GR_U8, 1 + (int64_t)i * i * 97);
        CHECK(t[i].data && (uintptr_t)t[i].data % 64 == 0, "tensor %d at %p", i, t[i].data);
        memset(t[i].data, i, (size_t)gr_count(t[i]));
    }
    for (int i = 0; i < n; i++)
        for (int64_t k = 0; k < gr_count(t[i]); k += 61)
            if (((unsigned char *)t[i].data)[k] != i) {
                CHECK(0, "tensor %d is overwritten at byte %lld", i, (long long)k);
                return;
            }
}

static void steps(void)
{
    gr_arena *a = NULL;
    int64_t   peak = 0;
    int       after_first = 0;

    CHECK(gr_arena_open(&a, &ops, "test") == GR_OK, "open");
    CHECK(gr_arena_reset(a) == GR_OK && gr_arena_peak(a) == 0, "reset of an unused arena");
    for (int step = 0; step < 4; step++) {
        apart(a, 100);
        if (step == 0) peak = gr_arena_peak(a);
        CHECK(gr_arena_peak(a) == peak, "peak moves from %lld to %lld", (long long)peak, (long long)gr_arena_peak(a));
        CHECK(gr_arena_reset(a) == GR_OK, "reset");
        if (step == 0) after_first = n_alloc;
    }
    CHECK(n_alloc == after_first, "%d allocations after the first step", n_alloc - after_first);
    CHECK(gr_arena_status(a) == GR_OK, "status");
    gr_arena_close(&a);
}

/* A mark taken in one block, released from a later one; what was before the mark survives, the rest is used again. */
static void marks(void)
{
    gr_arena *a = NULL;
    gr_tensor keep, first, again;
    gr_mark   empty, m;
    int64_t   peak;

    CHECK(gr_arena_open(&a, &ops, "test") == GR_OK, "open");
    empty = gr_arena_mark(a);
    keep = gr_take1(a, GR_F32, 1000);
    for (int i = 0; i < 1000; i++) ((float *)keep.data)[i] = (float)i;
    m = gr_arena_mark(a);
    first = gr_take1(a, GR_F32, 10);
    for (int i = 0; i < 5; i++) gr_take1(a, GR_F32, 400000); /* into further blocks */
    peak = gr_arena_peak(a);
    for (int round = 0; round < 3; round++) {
        const int before = n_alloc;

        gr_arena_release(a, m);
        again = gr_take1(a, GR_F32, 10);
        CHECK(again.data == first.data, "released memory is not used again");
        for (int i = 0; i < 5; i++) gr_take1(a, GR_F32, 400000);
        CHECK(n_alloc == before, "a released block is not used again");
        CHECK(gr_arena_peak(a) == peak, "peak");
    }
    for (int i = 0; i < 1000; i++) CHECK(((float *)keep.data)[i] == (float)i, "lost element %d", i);
    gr_arena_release(a, empty);
    again = gr_take1(a, GR_F32, 1);
    CHECK(again.data == keep.data, "mark of the empty arena");
    gr_arena_close(&a);
}

/* Refuse the k-th allocation, for every k: a NULL view, a status that stays until reset, no leak. */
static void out_of_memory(void)
{
    for (int k = 0; k < 6; k++) {
        gr_arena *a = NULL;
        bool      seen = false;

        CHECK(gr_arena_open(&a, &ops, "expected by this test") == GR_OK, "open");
        n_alloc = 0;
        fail_after = k;
        for (int i = 0; i < 10; i++) {
            gr_tensor t = gr_take1(a, GR_F32, 1 << (16 + i / 2));
            if (!t.data)
                seen = true;
            else
                *(float *)t.data = 1;
        }
        CHECK(seen == (gr_arena_status(a) != GR_OK), "a failure and the status disagree");
        if (seen) CHECK(gr_arena_status(a) == GR_ERR_NOMEM, "status %s", gr_status_name(gr_arena_status(a)));
        fail_after = -1;
        CHECK(gr_arena_reset(a) == GR_OK && gr_arena_status(a) == GR_OK, "reset after a failure");
        CHECK(gr_take1(a, GR_F32, 100).data != NULL, "take after reset");
        gr_arena_close(&a);
    }

    { /* sizes that wrap, and a merge that fails */
        gr_arena     *a = NULL;
        const int64_t huge[3] = {INT64_C(1) << 40, INT64_C(1) << 40, 4};

        CHECK(gr_arena_open(&a, &ops, "expected by this test") == GR_OK, "open");
        CHECK(gr_arena_take(a, GR_F32, 3, huge).data == NULL && gr_arena_status(a) == GR_ERR_NOMEM, "overflow");
        CHECK(gr_arena_reset(a) == GR_OK, "reset");
        gr_take1(a, GR_F32, 1);
        gr_take1(a, GR_F32, 1 << 20);
        n_alloc = fail_after = 0;
        CHECK(gr_arena_reset(a) == GR_ERR_NOMEM && gr_arena_status(a) == GR_ERR_NOMEM, "merge");
        CHECK(gr_take1(a, GR_F32, 1).data == NULL, "take without memory");
        fail_after = -1;
        CHECK(gr_arena_reset(a) == GR_OK && gr_take1(a, GR_F32, 1).data != NULL, "recovery");
        gr_arena_close(&a);
    }
}

int main(void)
{
    shapes();
    steps();
    marks();
    out_of_memory();
    CHECK(granted > 0, "nothing was allocated");
    return check_result();
}
