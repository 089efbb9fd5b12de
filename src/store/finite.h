/** @file finite.h  Where is the first NaN or Inf?  [local] */
#ifndef GR_STORE_FINITE_H
#define GR_STORE_FINITE_H
#include "kernels/tensor.h"
#include <stdint.h>

GR_C_BEGIN
/** Index of the first of n elements (GR_F32, GR_BF16 or GR_F16, host memory) that is NaN or infinite, -1 when none is.
 * At memory speed. */
int64_t gr_first_not_finite(gr_dtype dtype, const void *data, int64_t n);
GR_C_END
#endif
