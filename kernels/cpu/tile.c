/* One source for every width: a block is 6 rows by 4 vectors (2 where there are 16 registers), all of it in registers
 * while k runs; a is broadcast element by element, b is read as rows. rows, cols and partial are constants wherever
 * block() is called, so each call becomes straight-line code. */
#include "kernels/cpu/tile.h"
#include <string.h>

/* -std=c11 forbids contracting a * b + c, so the fused form is named where the machine has it. */
#if defined(__AVX512F__)
#include <immintrin.h>
enum { LANES = 16, WIDE = 4 };
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define EACH_LANE(f, w)                                                                                                \
    f(0, w), f(1, w), f(2, w), f(3, w), f(4, w), f(5, w), f(6, w), f(7, w), f(8, w), f(9, w), f(10, w), f(11, w),      \
        f(12, w), f(13, w), f(14, w), f(15, w)
#elif defined(__FMA__)
#include <immintrin.h>
enum { LANES = 8, WIDE = 2 };
#define FMA(a, b, c)    _mm256_fmadd_ps(a, b, c)
#define EACH_LANE(f, w) f(0, w), f(1, w), f(2, w), f(3, w), f(4, w), f(5, w), f(6, w), f(7, w)
#else
enum { LANES = 4, WIDE = 2 };
#define FMA(a, b, c)    ((a) * (b) + (c))
#define EACH_LANE(f, w) f(0, w), f(1, w), f(2, w), f(3, w)
#endif

enum { ROWS = 6 };

typedef float vec __attribute__((vector_size(LANES * 4)));                           /* in a register  */
typedef float vec_at __attribute__((vector_size(LANES * 4), aligned(4), may_alias)); /* at any address */

#define ALWAYS static inline __attribute__((always_inline))

ALWAYS vec broadcast(float x)
{
    return x - (vec){0}; /* one vbroadcastss; -0 stays -0 */
}

/* A vector at p; or, with n > 0, its first n lanes: memory past them is not touched. */
ALWAYS vec load(const float *p, int n)
{
    vec v = {0};

    if (!n) return *(const vec_at *)p;
#if defined(__AVX512F__)
    v = _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    memcpy(&v, p, (size_t)n * sizeof *p);
#endif
    return v;
}

ALWAYS void store(float *p, vec v, int n)
{
    if (!n) {
        *(vec_at *)p = v;
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
#else
    memcpy(p, &v, (size_t)n * sizeof *p);
#endif
}

/* c [rows, cols * LANES] = alpha a b + beta c; with `partial`, cols is 1 and only the first `partial` columns exist. */
ALWAYS void block(const int rows, const int cols, int partial, int K, const float *a, int64_t a_row, int64_t a_col,
                  const float *b, int64_t ldb, float *c, int64_t ldc, float alpha, float beta)
{
    const vec va = broadcast(alpha), vb = broadcast(beta);
    vec       sum[ROWS][WIDE] = {{{0}}};

    for (int k = 0; k < K; k++, a += a_col, b += ldb) {
        vec bk[WIDE];

#pragma GCC unroll 4
        for (int q = 0; q < cols; q++) bk[q] = load(b + q * LANES, partial);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const vec ar = broadcast(a[r * a_row]);
#pragma GCC unroll 4
            for (int q = 0; q < cols; q++) sum[r][q] = FMA(ar, bk[q], sum[r][q]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int q = 0; q < cols; q++) {
            float *p = c + r * ldc + q * LANES;
            vec    y = va * sum[r][q];

            if (beta != 0.0f) y = FMA(vb, load(p, partial), y);
            store(p, y, partial);
        }
}

/* One panel of columns, all M rows. */
ALWAYS void panel(const int cols, int partial, int M, int K, const float *a, int64_t a_row, int64_t a_col,
                  const float *b, int64_t ldb, float *c, int64_t ldc, float alpha, float beta)
{
#define BLOCK(rows) block(rows, cols, partial, K, a, a_row, a_col, b, ldb, c, ldc, alpha, beta)
    for (; M >= ROWS; M -= ROWS, a += ROWS * a_row, c += ROWS * ldc) BLOCK(ROWS);
    switch (M) {
    case 5: BLOCK(5); break;
    case 4: BLOCK(4); break;
    case 3: BLOCK(3); break;
    case 2: BLOCK(2); break;
    case 1: BLOCK(1); break;
    default: break;
    }
#undef BLOCK
}

void gr_tile_gemm(int M, int N, int K, const float *a, int64_t a_row, int64_t a_col, const float *b, int64_t ldb,
                  float *c, int64_t ldc, float alpha, float beta)
{
    int j = 0;

    for (; j + WIDE * LANES <= N; j += WIDE * LANES)
        panel(WIDE, 0, M, K, a, a_row, a_col, b + j, ldb, c + j, ldc, alpha, beta);
    for (; j + 2 * LANES <= N; j += 2 * LANES) panel(2, 0, M, K, a, a_row, a_col, b + j, ldb, c + j, ldc, alpha, beta);
    for (; j + LANES <= N; j += LANES) panel(1, 0, M, K, a, a_row, a_col, b + j, ldb, c + j, ldc, alpha, beta);
    if (j < N) panel(1, N - j, M, K, a, a_row, a_col, b + j, ldb, c + j, ldc, alpha, beta);
}

/* Triangles are cut into strips of 12 rows: two register blocks, so at most 11 / 2 multiplications by zero per row. */
enum { STRIP = 2 * ROWS };

static inline int min_int(int a, int b)
{
    return a < b ? a : b;
}

void gr_tile_lower_gemm(int M, int N, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                        float alpha, float beta)
{
    for (int i = 0; i < M; i += STRIP) {
        const int m = min_int(STRIP, M - i);
        gr_tile_gemm(m, N, i + m, a + i * lda, lda, 1, b, ldb, c + i * ldc, ldc, alpha, beta);
    }
}

void gr_tile_lower_t_gemm(int M, int N, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                          float alpha, float beta)
{
    for (int i = 0; i < M; i += STRIP) {
        const int m = min_int(STRIP, M - i);
        gr_tile_gemm(m, N, M - i, a + i * lda + i, 1, lda, b + i * ldb, ldb, c + i * ldc, ldc, alpha, beta);
    }
}

void gr_tile_gemm_lower(int M, int K, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                        float alpha, float beta)
{
    for (int i = 0; i < M; i += STRIP) {
        const int m = min_int(STRIP, M - i), n = min_int(M, (i + m + LANES - 1) / LANES * LANES); /* whole vectors */
        gr_tile_gemm(m, n, K, a + i * lda, lda, 1, b, ldb, c + i * ldc, ldc, alpha, beta);
    }
}

/* ---- transpose ------------------------------------------------------------------------------------------------ */

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLES 1
#endif

#ifdef SHUFFLES
/* The off-diagonal w x w blocks of each 2w x 2w block change places: row i keeps the lanes with bit w clear and takes
 * the others from row i + w, which does the opposite. w = LANES/2 ... 1 together transpose LANES x LANES. */
#define UPPER(l, w) ((l) & (w) ? LANES + (l) - (w) : (l))
#define LOWER(l, w) ((l) & (w) ? LANES + (l) : (l) + (w))
#define EXCHANGE(w)                                                                                                    \
    for (int i = 0; i < LANES; i++)                                                                                    \
        if (!(i & (w))) {                                                                                              \
            const vec up = r[i], low = r[i + (w)];                                                                     \
            r[i] = __builtin_shufflevector(up, low, EACH_LANE(UPPER, w));                                              \
            r[i + (w)] = __builtin_shufflevector(up, low, EACH_LANE(LOWER, w));                                        \
        }

static void transpose_square(const float *b, int64_t ldb, float *bt, int64_t ldt)
{
    vec r[LANES];

#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) r[i] = load(b + i * ldb, 0);
#if defined(__AVX512F__)
#pragma GCC unroll 16
    EXCHANGE(8)
#endif
#if defined(__FMA__)
#pragma GCC unroll 16
    EXCHANGE(4)
#endif
#pragma GCC unroll 16
    EXCHANGE(2)
#pragma GCC unroll 16
    EXCHANGE(1)
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) store(bt + i * ldt, r[i], 0);
}
#endif

static void transpose_plain(int m, int n, const float *b, int64_t ldb, float *bt, int64_t ldt)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) bt[j * ldt + i] = b[i * ldb + j];
}

void gr_tile_transpose(int m, int n, const float *b, int64_t ldb, float *bt, int64_t ldt)
{
    int i = 0;

#ifdef SHUFFLES
    for (; i + LANES <= m; i += LANES) {
        int j = 0;

        for (; j + LANES <= n; j += LANES) transpose_square(b + i * ldb + j, ldb, bt + j * ldt + i, ldt);
        transpose_plain(LANES, n - j, b + i * ldb + j, ldb, bt + j * ldt + i, ldt);
    }
#endif
    transpose_plain(m - i, n, b + i * ldb, ldb, bt + i, ldt);
}
