/* Matrix products: OpenBLAS, but for the product of a few rows, which is what decoding does.
 *
 * y = x W^T with 1 to THIN rows of x reads W once and does little with it, so memory sets the pace. OpenBLAS packs W
 * first: for one row and W [49152, 576] it reads 8 GB/s of W, this loop 22; for W [2048, 2048], which stays in the last
 * cache, 13 and 90 (one core of an EPYC 9005). From 16 rows on OpenBLAS wins.
 */
#include "kernels/cpu/cpu.h"
#include <cblas.h>
#include <math.h>

enum {
    THIN = 8,
    BLOCK = 4
}; /* rows of x; rows of W that pass together, so that additions do not wait for each other */

/* c [M, N] = alpha a b^T + beta c;  a [M, K], b [N, K].  Each element is summed in the same order whatever the threads.
 */
static void thin(float *c, const float *a, const float *b, int64_t M, int64_t N, int64_t K, float alpha, float beta)
{
#pragma omp parallel for schedule(static) if (N * K > GR_SERIAL)
    for (int64_t j = 0; j < N; j += BLOCK) {
        const int64_t n = N - j < BLOCK ? N - j : BLOCK; /* the last block repeats its last row */
        const float  *b0 = b + j * K, *b1 = n > 1 ? b0 + K : b0, *b2 = n > 2 ? b1 + K : b1, *b3 = n > 3 ? b2 + K : b2;

        for (int64_t i = 0; i < M; i++) {
            const float *x = a + i * K;
            float        s0 = 0, s1 = 0, s2 = 0, s3 = 0;

#pragma omp simd reduction(+ : s0, s1, s2, s3)
            for (int64_t k = 0; k < K; k++) {
                s0 = fmaf(x[k], b0[k], s0);
                s1 = fmaf(x[k], b1[k], s1);
                s2 = fmaf(x[k], b2[k], s2);
                s3 = fmaf(x[k], b3[k], s3);
            }
            {
                const float sum[BLOCK] = {s0, s1, s2, s3};

                for (int64_t m = 0; m < n; m++) {
                    float *y = c + i * N + j + m;
                    *y = alpha * sum[m] + (beta == 0.0f ? 0.0f : beta * *y);
                }
            }
        }
    }
}

void gr_cpu_gemm(gr_tensor c, gr_tensor a, bool ta, gr_tensor b, bool tb, float alpha, float beta, gr_stream *s)
{
    const int64_t M = c.dim[0], N = gr_row(c), K = ta ? a.dim[0] : gr_row(a);

    (void)s;
    if (M == 0 || N == 0) return;
    if (M <= THIN && !ta && tb)
        thin(gr_f(c), gr_f(a), gr_f(b), M, N, K, alpha, beta);
    else
        cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (int)M, (int)N,
                    (int)K, alpha, gr_f(a), (int)gr_row(a), gr_f(b), (int)gr_row(b), beta, gr_f(c), (int)N);
}
