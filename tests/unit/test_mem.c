/* Counted memory: aligned, zeroed, counted, and no size makes it lie. */
/*TEST
np: 1
timeout: 10
*/
#include "tests/check.h"
#include "util/mem.h"
#include <string.h>

static int all_zero(const unsigned char *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i]) return 0;
    return 1;
}

/* Dirty, free and take again, so that zeroes cannot come from fresh pages alone. */
static void aligned_and_zeroed(void)
{
    for (uint64_t n = 0; n < 300; n++) {
        unsigned char *p = NULL;

        for (int turn = 0; turn < 2; turn++) {
            CHECK(gr_alloc(&p, n, 1, "block") == GR_OK, "%llu bytes", (unsigned long long)n);
            CHECK(p != NULL, "n = %llu gives NULL", (unsigned long long)n);
            CHECK((uintptr_t)p % 64 == 0, "%p is not a multiple of 64", (void *)p);
            CHECK(all_zero(p, n), "%llu bytes are not all zero", (unsigned long long)n);
            memset(p, 0xA5, n);
            gr_free(&p);
            CHECK(p == NULL, "gr_free leaves the pointer");
        }
    }
}

static void counted(void)
{
    const int64_t before = gr_mem_live();
    double       *a = NULL, *b = NULL;

    CHECK(gr_alloc(&a, 10, sizeof *a, "a") == GR_OK, "a");
    CHECK(gr_alloc(&b, 0, sizeof *b, "b") == GR_OK, "b");
    CHECK(gr_mem_live() == before + 2, "two blocks count as %lld", (long long)(gr_mem_live() - before));
    CHECK(gr_realloc(&a, 100000, sizeof *a, "a") == GR_OK, "grow");
    CHECK(gr_mem_live() == before + 2, "gr_realloc changes the count");
    gr_free(&a);
    gr_free(&a); /* NULL is fine */
    CHECK(gr_mem_live() == before + 1, "freeing twice counts twice");
    gr_free(&b);
    CHECK(gr_mem_live() == before, "count is off by %lld", (long long)(gr_mem_live() - before));
}

static void realloc_keeps(void)
{
    static const uint64_t size[] = {1, 63, 64, 65, 1000, 7, 0, 4096, 3};
    unsigned char        *p = NULL;
    uint64_t              had = 0;

    for (int i = 0; i < (int)(sizeof size / sizeof size[0]); i++) {
        const uint64_t has = size[i], kept = had < has ? had : has;

        CHECK(gr_realloc(&p, has, 1, "p") == GR_OK, "to %llu", (unsigned long long)has);
        CHECK((uintptr_t)p % 64 == 0, "%p is not a multiple of 64", (void *)p);
        for (uint64_t k = 0; k < kept; k++)
            CHECK(p[k] == (unsigned char)(k * 7 + 1), "byte %llu is lost", (unsigned long long)k);
        CHECK(all_zero(p + kept, has - kept), "bytes from %llu on are not zero", (unsigned long long)kept);
        for (uint64_t k = 0; k < has; k++) p[k] = (unsigned char)(k * 7 + 1);
        had = has;
    }
    gr_free(&p);
}

/* No size may wrap around to a small block; what was there stays. */
static void too_much(void)
{
    static const struct {
        uint64_t n, size;
    } huge[] = {{UINT64_MAX, 1},
                {UINT64_MAX, UINT64_MAX},
                {UINT64_MAX / 8 + 1, 8},   /* wraps to 0 */
                {UINT64_MAX / 16 + 2, 16}, /* wraps to 16 */
                {UINT64_C(1) << 32, UINT64_C(1) << 32},
                {UINT64_MAX - 32, 1}, /* the header and the padding would wrap */
                {UINT64_C(1) << 48, 1},
                {(UINT64_C(1) << 48) - 1, 1}}; /* passes the check; the system must refuse */
    const int64_t before = gr_mem_live();
    char         *kept = NULL;

    CHECK(gr_strdup(&kept, "kept") == GR_OK, "strdup");
    for (int i = 0; i < (int)(sizeof huge / sizeof huge[0]); i++) {
        char *p = NULL, *same = kept;

        CHECK(gr_alloc(&p, huge[i].n, huge[i].size, "expected by this test") == GR_ERR_NOMEM, "case %d is granted", i);
        CHECK(p == NULL, "case %d sets its output", i);
        CHECK(gr_realloc(&kept, huge[i].n, huge[i].size, "expected by this test") == GR_ERR_NOMEM, "case %d is granted",
              i);
        CHECK(kept == same && strcmp(kept, "kept") == 0, "case %d loses the old block", i);
    }
    CHECK(gr_mem_live() == before + 1, "a refused block is counted");
    gr_free(&kept);
}

static void strings(void)
{
    char *a = NULL, *b = NULL;

    CHECK(gr_strdup(&a, "") == GR_OK && a && a[0] == '\0', "empty string");
    CHECK(gr_strdup(&b, "gr\xC3\xA4"
                        "ft") == GR_OK &&
              strcmp(b, "gr\xC3\xA4"
                        "ft") == 0,
          "utf-8 string");
    gr_free(&a);
    gr_free(&b);
}

/* The count is atomic: threads allocate too. */
static void threads(void)
{
    const int64_t before = gr_mem_live();

#pragma omp parallel for num_threads(4)
    for (int i = 0; i < 400000; i++) {
        int *p = NULL;

        if (gr_alloc(&p, (uint64_t)(i % 50), sizeof *p, "p") == GR_OK) gr_free(&p);
    }
    CHECK(gr_mem_live() == before, "the count drifts under threads");
}

int main(void)
{
    aligned_and_zeroed();
    counted();
    realloc_keeps();
    too_much();
    strings();
    threads();
    return check_result();
}
