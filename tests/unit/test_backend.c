/* Opening a backend: what exists, what does not, and OpenBLAS kernels that fit the CPU. */
/*TEST
np: 1
timeout: 30
*/
#include "tests/unit/oracle.h"
#include <unistd.h>

static void refused(void)
{
    const gr_ops *ops = NULL;
    char          note[200] = "";

    CHECK(gr_backend_open("cuda", 1, &ops, note, sizeof note) == GR_ERR_CONFIG && !ops, "cuda in a build without it");
    CHECK(gr_backend_open("gpu", 1, &ops, note, sizeof note) == GR_ERR_CONFIG && !ops, "unknown name");
    CHECK(gr_backend_open("cpu", 0, &ops, note, sizeof note) == GR_ERR_CONFIG && !ops, "0 threads");
}

/* c = a b at a size that OpenBLAS cuts into blocks; small integers, so exact in any order. */
static void product(const gr_ops *ops)
{
    enum { M = 67, N = 301, K = 530 };
    float *a = take(M * K, 4), *b = take(K * N, 4), *c = poisoned(M * N);

    for (int i = 0; i < M * K; i++) a[i] = (float)(i % 7 - 3);
    for (int i = 0; i < K * N; i++) b[i] = (float)(i % 11 - 5);
    ops->gemm(mat(c, M, N), mat(a, M, K), false, mat(b, K, N), false, 1, 0, NULL);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            int x = 0;

            for (int k = 0; k < K; k++) x += (int)a[i * K + k] * (int)b[k * N + j];
            if (c[i * N + j] != (float)x) {
                CHECK(0, "c[%d, %d] = %g, not %d", i, j, c[i * N + j], x);
                return;
            }
        }
    take_back();
}

static void every_entry(const gr_ops *ops)
{
    const void *const *entry = (const void *const *)(const void *)ops;

    for (size_t i = 0; i < sizeof *ops / sizeof *entry; i++)
        CHECK(entry[i] != NULL, "entry %zu of the table is empty", i);
}

static void memory(const gr_ops *ops)
{
    const int64_t before = gr_mem_live();
    void         *p = NULL;
    float         x[3] = {1, 2, 3}, y[3];

    CHECK(ops->alloc(&p, 1000, "block") == GR_OK && gr_mem_live() == before + 1, "alloc");
    for (int i = 0; i < 1000; i++) CHECK(((char *)p)[i] == 0, "byte %d is not zero", i);
    ops->copy(p, x, sizeof x, GR_TO_BACKEND, NULL);
    ops->copy(y, p, sizeof y, GR_TO_HOST, NULL);
    CHECK(memcmp(x, y, sizeof x) == 0, "copy");
    ops->zero(gr_view1(p, GR_U16, 5), NULL);
    CHECK(((float *)p)[1] == 0 && ((uint16_t *)p)[4] == 0 && ((uint16_t *)p)[5] != 0, "zero clears 5 u16, no more");
    ops->free(&p);
    CHECK(!p && gr_mem_live() == before, "free");
}

/* OpenBLAS reads OPENBLAS_CORETYPE when it is loaded. So start again with Haswell kernels, as if it did not know this
 * CPU. */
int main(int argc, char **argv)
{
    const bool    again = argc > 1;
    const gr_ops *ops = NULL;
    char          note[200] = "";

    if (!again) {
        setenv("OPENBLAS_CORETYPE", "Haswell", 1);
        execl("/proc/self/exe", argv[0], "again", (char *)NULL);
        return 77;
    }
    CHECK(gr_backend_open("cpu", 2, &ops, note, sizeof note) == GR_OK && ops == &gr_ops_cpu, "open");
    CHECK(strstr(note, "set by OPENBLAS_CORETYPE"), "the user's choice is not respected: %s", note);
    product(ops);
    unsetenv("OPENBLAS_CORETYPE");
    CHECK(gr_backend_open("cpu", 2, &ops, note, sizeof note) == GR_OK, "open");
    printf("%s\n", note);
    CHECK(!getenv("OPENBLAS_CORETYPE"), "the environment is not left as it was");
    CHECK(omp_get_max_threads() == 2, "threads");
    product(ops);
    every_entry(ops);
    memory(ops);
    refused();
    return check_result();
}
