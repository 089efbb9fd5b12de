#include "kernels/cpu/tri.h"
#include "kernels/cpu/tile.h"
#include <string.h>

enum { B = GR_TRI_BLOCK };

static inline int rows_of(int n, int i)
{
    return n - i < B ? n - i : B;
}

/* Row j of the inverse is final once rows before it were subtracted; then it is subtracted from all rows below, which
 * do not wait for each other. */
static void invert_block(int m, const float *l, int64_t ldl, float *inv)
{
    memset(inv, 0, (size_t)m * B * sizeof *inv);
    for (int i = 0; i < m; i++) inv[i * B + i] = 1.0f;
    for (int j = 0; j < m; j++) {
        const float *done = inv + j * B;

        for (int i = j + 1; i < m; i++) {
            const float a = l[i * ldl + j];
#pragma omp simd
            for (int c = 0; c < B; c++) inv[i * B + c] -= a * done[c];
        }
    }
}

void gr_tri_invert_blocks(int n, const float *l, int64_t ldl, float *inv)
{
    for (int i = 0; i < n; i += B) invert_block(rows_of(n, i), l + i * ldl + i, ldl, inv + i * B);
}

void gr_tri_solve(int n, int m, const float *l, int64_t ldl, const float *inv, float *b, int64_t ldb, float *x,
                  int64_t ldx)
{
    for (int i = 0; i < n; i += B) {
        const int r = rows_of(n, i);

        gr_tile_gemm(r, m, i, l + i * ldl, ldl, 1, x, ldx, b + i * ldb, ldb, -1.0f, 1.0f);
        gr_tile_gemm(r, m, r, inv + i * B, B, 1, b + i * ldb, ldb, x + i * ldx, ldx, 1.0f, 0.0f);
    }
}

void gr_tri_solve_t(int n, int m, const float *l, int64_t ldl, const float *inv, float *b, int64_t ldb, float *x,
                    int64_t ldx)
{
    for (int i = (n - 1) / B * B; i >= 0; i -= B) {
        const int r = rows_of(n, i), below = i + r;

        gr_tile_gemm(r, m, n - below, l + below * ldl + i, 1, ldl, x + below * ldx, ldx, b + i * ldb, ldb, -1.0f, 1.0f);
        gr_tile_gemm(r, m, r, inv + i * B, 1, B, b + i * ldb, ldb, x + i * ldx, ldx, 1.0f, 0.0f);
    }
}
