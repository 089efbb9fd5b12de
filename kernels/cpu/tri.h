/** @file tri.h  Triangular systems of chunk size: (I + L) X = B, L strictly lower.  [leaf]
 *
 * Delta-rule mixers meet it once per chunk ("UT transform"). Forward substitution in blocks of 16: the 16 x 16 blocks
 * on the diagonal are inverted by substitution, everything else is products (kernels/cpu/tile.h). The series (I - L)(I
 * + L^2)(I + L^4)... would be all products, but for correlated keys powers of L overflow what fp32 resolves (64
 * identical keys: residual 4e10), while entries of the inverse stay below 1 in magnitude for unit keys and 0 <= beta
 * <= 1.
 *
 * Source   docs/math.md 0.7.
 */
#ifndef GR_KERNELS_CPU_TRI_H
#define GR_KERNELS_CPU_TRI_H
#include <stdint.h>

enum { GR_TRI_BLOCK = 16 };

/** inv [n, 16]: rows 16 b ... hold the inverse of the b-th diagonal block of I + L. Only what lies below l's diagonal
 * is read. */
void gr_tri_invert_blocks(int n, const float *l, int64_t ldl, float *inv);

/** x [n, m] = (I + L)^-1 b. b is destroyed. L below its diagonal only. */
void gr_tri_solve(int n, int m, const float *l, int64_t ldl, const float *inv, float *b, int64_t ldb, float *x,
                  int64_t ldx);

/** x [n, m] = (I + L)^-T b. b is destroyed. */
void gr_tri_solve_t(int n, int m, const float *l, int64_t ldl, const float *inv, float *b, int64_t ldb, float *x,
                    int64_t ldx);
#endif
