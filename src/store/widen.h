/** @file widen.h  16-bit floats to fp32.  [local]
 *
 * bf16 is the upper half of an fp32; f16 is IEEE 754 binary16. Both are exact, subnormals, infinities and NaN
 * included, whatever the processor's flush-to-zero mode.
 */
#ifndef GR_STORE_WIDEN_H
#define GR_STORE_WIDEN_H
#include "kernels/tensor.h"
#include <stdint.h>

GR_C_BEGIN
/** dst[n] = src[n]; src is GR_F32, GR_BF16 or GR_F16, host memory. A 16-bit src may be the second half of dst's
 * memory (dst + n / 2 when n is even), so a reader needs no buffer of its own. */
void gr_widen_f32(gr_dtype from, const void *src, float *dst, int64_t n);
GR_C_END
#endif
