/* kernels/cpu/tile.c against plain loops in fp64: every remainder in M and N, strides, alpha and beta, and no element
 * outside the operands touched. */
/*TEST
np: 1
timeout: 60
*/
#include "kernels/cpu/tile.h"
#include "tests/check.h"
#include <string.h>

enum { MAX = 150, GUARD = 7 };

static uint64_t seed = 1;

static float uniform(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(seed >> 40) / 8388608.0f - 1.0f;
}

static float a[MAX * MAX], b[MAX * MAX], c[MAX * MAX], c0[MAX * MAX];

static void fill(float *x)
{
    for (int i = 0; i < MAX * MAX; i++) x[i] = uniform();
}

/* which: 0 whole, 1 a lower, 2 a^T lower, 3 lower triangle of the result */
static void check_product(int which, int M, int N, int K, int transposed, float alpha, float beta)
{
    const int64_t lda = (transposed ? M : K) + 3, ldb = N + GUARD, ldc = N + GUARD;
    const int64_t row = transposed ? 1 : lda, col = transposed ? lda : 1;
    double        err = 0;
    int           outside = 0;

    fill(a), fill(b), fill(c);
    if (which == 1 || which == 2)
        for (int i = 0; i < M; i++)
            for (int k = i + 1; k < M; k++) a[i * lda + k] = 0.0f;
    if (beta == 0.0f) /* must not be read */
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) c[i * ldc + j] = NAN;
    memcpy(c0, c, sizeof c);
    switch (which) {
    case 0: gr_tile_gemm(M, N, K, a, row, col, b, ldb, c, ldc, alpha, beta); break;
    case 1: gr_tile_lower_gemm(M, N, a, lda, b, ldb, c, ldc, alpha, beta); break;
    case 2: gr_tile_lower_t_gemm(M, N, a, lda, b, ldb, c, ldc, alpha, beta); break;
    default: gr_tile_gemm_lower(M, K, a, lda, b, ldb, c, ldc, alpha, beta); break;
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < (which == 3 ? i + 1 : N); j++) {
            double y = beta == 0.0f ? 0 : (double)beta * c0[i * ldc + j], d;
            for (int k = 0; k < K; k++) y += (double)alpha * a[i * row + k * col] * b[k * ldb + j];
            d = fabs(y - c[i * ldc + j]);
            if (!(d <= err)) err = d;
        }
    for (int i = 0; i < M; i++)
        for (int j = N; j < ldc; j++) outside += c[i * ldc + j] != c0[i * ldc + j];
    for (int64_t i = M * ldc; i < MAX * MAX; i++) outside += c[i] != c0[i];
    /* K products of numbers below 1: a sum of errors of at most K ulp(K) / 2. */
    CHECK(err <= 1e-7 * (K + 1) * 2, "product %d %dx%dx%d t=%d alpha %g beta %g: error %.1e", which, M, N, K,
          transposed, alpha, beta, err);
    CHECK(outside == 0, "product %d %dx%dx%d: %d elements outside were written", which, M, N, K, outside);
}

/* A row of the result must not depend on how many rows and columns are computed with it. */
static void check_independence(void)
{
    static float whole[MAX * MAX];

    fill(a), fill(b);
    gr_tile_gemm(67, 131, 90, a, 100, 1, b, 140, whole, 140, 1.0f, 0.0f);
    for (int i = 0; i < 67; i += 5) {
        gr_tile_gemm(1, 37, 90, a + i * 100, 100, 1, b + 50, 140, c, 140, 1.0f, 0.0f);
        CHECK(!memcmp(c, whole + i * 140 + 50, 37 * sizeof *c), "row %d differs when computed alone", i);
    }
}

static void check_transpose(int m, int n)
{
    const int64_t ldb = n + 2, ldt = m + 3;
    int           bad = 0;

    fill(b), fill(c);
    memcpy(c0, c, sizeof c);
    gr_tile_transpose(m, n, b, ldb, c, ldt);
    for (int64_t i = 0; i < MAX * MAX; i++) {
        const int64_t j = i / ldt, l = i % ldt;
        bad += c[i] != (j < n && l < m ? b[l * ldb + j] : c0[i]);
    }
    CHECK(bad == 0, "transpose %dx%d: %d elements wrong", m, n, bad);
}

int main(void)
{
    static const int   size[] = {0, 1, 2, 5, 6, 7, 15, 16, 17, 31, 33, 47, 64, 66, 81, 128};
    static const float scale[][2] = {{1, 0}, {1, 1}, {-0.5f, 1}, {2, 0.25f}};
    const int          n_size = (int)(sizeof size / sizeof *size);

    for (int m = 0; m < n_size; m++)
        for (int n = 0; n < n_size; n++) {
            for (int k = 0; k < n_size; k += 3)
                check_product(0, size[m], size[n], size[k], (m + n + k) & 1, scale[(m + n) % 4][0],
                              scale[(m + n) % 4][1]);
            check_product(1, size[m], size[n], size[m], 0, scale[n % 4][0], scale[n % 4][1]);
            check_product(2, size[m], size[n], size[m], 1, scale[n % 4][0], scale[n % 4][1]);
            check_product(3, size[m], size[m], size[n], 0, scale[n % 4][0], scale[n % 4][1]);
            check_transpose(size[m], size[n]);
        }
    check_independence();
    return check_result();
}
