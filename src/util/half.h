/** @file half.h  One fp32 to 16 bits and back.  [local]
 *
 * Rounding is to nearest, ties to even; what is too large becomes infinity; NaN stays NaN. Whole arrays are widened by
 * store/widen.h.
 */
#ifndef GR_UTIL_HALF_H
#define GR_UTIL_HALF_H
#include "util/status.h"
#include <stdint.h>
#include <string.h>

GR_C_BEGIN

static inline uint32_t gr_bits_of_f32(float x)
{
    uint32_t u;

    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float gr_f32_of_bits(uint32_t u)
{
    float x;

    memcpy(&x, &u, sizeof x);
    return x;
}

/** bf16: the upper half of an fp32. Adding just under half a unit carries into the kept bits exactly when it should. */
static inline uint16_t gr_bf16_of_f32(float x)
{
    const uint32_t u = gr_bits_of_f32(x);

    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

static inline float gr_f32_of_bf16(uint16_t h)
{
    return gr_f32_of_bits((uint32_t)h << 16);
}

/** f16: IEEE 754 binary16. */
static inline uint16_t gr_f16_of_f32(float x)
{
    const uint32_t u = gr_bits_of_f32(x), sign = u >> 16 & 0x8000, rest = u & 0x7FFFFFFFu;

    if (rest > 0x7F800000u) return (uint16_t)(sign | 0x7E00);  /* NaN */
    if (rest >= 0x47800000u) return (uint16_t)(sign | 0x7C00); /* 2^16 and above */
    if (rest < 0x38800000u) {
        /* Below 2^-14 the result counts units of 2^-24, and so does the last bit of a float in [0.5, 1): the adder
         * rounds. */
        const float r = gr_f32_of_bits(rest) + 0.5f;
        return (uint16_t)(sign | (gr_bits_of_f32(r) - 0x3F000000u));
    }
    return (uint16_t)(sign |
                      ((rest - 0x38000000u + 0xFFF + (rest >> 13 & 1)) >> 13)); /* 65520 and above carry to Inf */
}

static inline float gr_f32_of_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7FFF;

    if (rest >= 0x7C00) return gr_f32_of_bits(sign | 0x7F800000u | rest << 13);
    if (rest < 0x0400) return gr_f32_of_bits(sign | gr_bits_of_f32((float)rest * 0x1p-24f));
    return gr_f32_of_bits(sign | ((rest << 13) + (112u << 23)));
}

GR_C_END
#endif
