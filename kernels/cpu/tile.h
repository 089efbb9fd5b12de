/** @file tile.h  Products of chunk-sized matrices, without a library.  [leaf]
 *
 * BLAS packs its operands on every call, which costs more than the product at 64 x 128; this micro-kernel works in
 * place: 6 rows x 4 vectors of accumulators. Everything is F32 and single-threaded: callers parallelise over
 * (document, head, chunk). Any M, N, K >= 0; best when N is a multiple of 16.
 *
 * Rows that are a power of two apart fight for the same cache sets: give scratch matrices row strides of
 * gr_tile_ld(width), and copy operands whose rows are a token apart ([N, H, D]) before multiplying by them.
 *
 * Repeatable: an element is one chain of fused multiply-adds over k in rising order, whatever M and N are.
 */
#ifndef GR_KERNELS_CPU_TILE_H
#define GR_KERNELS_CPU_TILE_H
#include <stdint.h>

/** c [M, N] = alpha a b + beta c. Element (i, k) of a lies at a[i * a_row + k * a_col]: (lda, 1) is a as stored, (1,
 * lda) its transpose. b [K, N] with row stride ldb, c with ldc. beta 0 does not read c. */
void gr_tile_gemm(int M, int N, int K, const float *a, int64_t a_row, int64_t a_col, const float *b, int64_t ldb,
                  float *c, int64_t ldc, float alpha, float beta);

/* Half the work where a triangle is involved. `a` [M, M] lower triangular must hold zeros above its diagonal, since
 * strips of rows overlap it; far from the diagonal they are not read. */

/** c [M, N] = alpha a b + beta c, a lower triangular. */
void gr_tile_lower_gemm(int M, int N, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                        float alpha, float beta);

/** c [M, N] = alpha a^T b + beta c, a lower triangular. */
void gr_tile_lower_t_gemm(int M, int N, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                          float alpha, float beta);

/** The lower triangle of c [M, M] = alpha a b + beta c, a [M, K], b [K, M]. Above the diagonal some elements are
 * written, some not. */
void gr_tile_gemm_lower(int M, int K, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                        float alpha, float beta);

/** bt [n, m] (row stride ldt) = transpose of b [m, n] (row stride ldb): how a product with b^T gets its right operand.
 */
void gr_tile_transpose(int m, int n, const float *b, int64_t ldb, float *bt, int64_t ldt);

/** Row stride for a scratch matrix of n columns: an odd number of cache lines, so that rows spread over all sets. */
static inline int gr_tile_ld(int n)
{
    const int lines = (n + 15) / 16;
    return 16 * (lines | 1);
}
#endif
