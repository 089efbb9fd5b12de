/* The group: agreement whatever rank fails, reductions of any size, broadcasts, gathering, dealing. */
/*TEST
np: 1 2 3 4
timeout: 60
*/
#include "comm/comm.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

static void test_agree(const gr_comm *c, int rank, int size)
{
    for (int bad = 0; bad < size; bad++)
        CHECK(gr_agree(c, rank == bad ? GR_ERR_IO : GR_OK) == GR_ERR_IO, "rank %d missed the failure of rank %d", rank,
              bad);
    CHECK(gr_agree(c, GR_OK) == GR_OK, "false alarm");
    CHECK(gr_agree(c, rank == size - 1 ? GR_ERR_DEVICE : GR_ERR_INPUT) == GR_ERR_DEVICE, "the worst wins");
    CHECK(gr_agree(NULL, GR_ERR_INPUT) == GR_ERR_INPUT, "alone");
}

static void test_reduce(const gr_comm *c, int rank, int size)
{
    const int64_t n = (1 << 20) * 2 + 3; /* three pieces */
    float        *f = NULL;
    double        d[2] = {rank + 1, 0.5};
    int64_t       i[2] = {rank + 1, INT64_C(1) << 40}, m[2] = {rank, -rank}, wrong = 0;

    CHECK(gr_alloc(&f, (uint64_t)n, sizeof *f, "data") == GR_OK, "memory");
    for (int64_t k = 0; k < n; k++) f[k] = (float)(k % 1000 + rank);
    gr_sum_f32(c, f, n);
    for (int64_t k = 0; k < n; k++) wrong += f[k] != (float)(size * (k % 1000) + size * (size - 1) / 2);
    CHECK(wrong == 0, "%lld sums are wrong", (long long)wrong);
    gr_sum_f64(c, d, 2);
    CHECK(d[0] == size * (size + 1) / 2 && d[1] == size * 0.5, "sum of doubles");
    gr_sum_i64(c, i, 2);
    CHECK(i[0] == size * (size + 1) / 2 && i[1] == size * (INT64_C(1) << 40), "sum of integers");
    gr_max_i64(c, m, 2);
    CHECK(m[0] == size - 1 && m[1] == 0, "maximum");
    gr_sum_f32(c, NULL, 0);
    gr_free(&f);
}

static void test_move(const gr_comm *c, int rank, int size)
{
    const int64_t n = (64 << 20) + 5; /* two pieces */
    char         *big = NULL, *all = NULL, text[32] = "";
    int64_t      *offset = NULL, ids[8] = {0}, mine = 100 + rank;

    CHECK(gr_alloc(&big, (uint64_t)n, 1, "data") == GR_OK, "memory");
    for (int root = 0; root < size; root++) {
        if (rank == root) {
            big[0] = (char)(root + 1);
            big[n - 1] = (char)(root + 2);
        }
        gr_bcast(c, big, n, root);
        CHECK(big[0] == root + 1 && big[n - 1] == root + 2, "broadcast from %d", root);
    }
    gr_free(&big);
    gr_bcast(c, NULL, 0, 0);

    gr_allgather(c, &mine, sizeof mine, ids);
    for (int r = 0; r < size; r++) CHECK(ids[r] == 100 + r, "allgather: %lld of rank %d", (long long)ids[r], r);

    memset(text, 'a' + rank, sizeof text); /* rank r sends r * 3 bytes: rank 0 nothing */
    CHECK(gr_gather_bytes(c, text, rank * 3, &all, &offset) == GR_OK, "gather");
    CHECK((rank == 0) == (all != NULL) && (rank == 0) == (offset != NULL), "results on rank 0, and only there");
    for (int r = 0; rank == 0 && r < size; r++) {
        CHECK(offset[r + 1] - offset[r] == r * 3, "length of rank %d", r);
        for (int64_t k = offset[r]; k < offset[r + 1]; k++) CHECK(all[k] == 'a' + r, "byte %lld", (long long)k);
    }
    gr_free(&all);
    gr_free(&offset);
}

static void test_share(void)
{
    for (int64_t n = 0; n < 40; n++) {
        for (int size = 1; size < 9; size++) {
            int64_t next = 0;
            for (int r = 0; r < size; r++) {
                int64_t first, count;
                gr_share(n, r, size, &first, &count);
                CHECK(first == next && count >= n / size && count <= n / size + 1, "%lld over %d, rank %d",
                      (long long)n, size, r);
                next = first + count;
            }
            CHECK(next == n, "%lld over %d: %lld dealt", (long long)n, size, (long long)next);
        }
    }
}

static void test_fault(const gr_comm *c, int rank, int size)
{
    setenv("GR_FAULT", "save:1", 1);
    CHECK(gr_fault(c, "save") == (rank == 1 ? GR_ERR_IO : GR_OK), "here and only here");
    CHECK(gr_fault(c, "sav") == GR_OK && gr_fault(c, "save2") == GR_OK, "other sites");
    CHECK(gr_agree(c, gr_fault(c, "save")) == (size > 1 ? GR_ERR_IO : GR_OK), "all learn of it");
    setenv("GR_FAULT", "save:", 1);
    CHECK(gr_fault(c, "save") == GR_OK, "no rank given");
    unsetenv("GR_FAULT");
    CHECK(gr_fault(c, "save") == GR_OK, "not asked for");
}

int main(int argc, char **argv)
{
    gr_comm *world = NULL, *host = NULL;

    CHECK(gr_comm_init(&world, &argc, &argv) == GR_OK, "init");
    const int rank = gr_comm_rank(world), size = gr_comm_size(world);
    gr_log_identity("test_comm", rank);
    CHECK(gr_comm_rank(NULL) == 0 && gr_comm_size(NULL) == 1, "NULL is this process alone");
    test_agree(world, rank, size);
    test_reduce(world, rank, size);
    test_reduce(NULL, 0, 1);
    test_move(world, rank, size);
    test_move(NULL, 0, 1);
    test_share();
    test_fault(world, rank, size);
    CHECK(gr_comm_split_host(world, &host) == GR_OK && gr_comm_size(host) == size && gr_comm_rank(host) == rank,
          "all on this host");
    gr_comm_close(&host);
    gr_comm_close(&host);
    gr_barrier(world);
    gr_comm_finalize(&world);
    return check_result();
}
