#include "store/widen.h"
#include <string.h>

enum { PIECE = 2048 };

static void widen_bf16(const uint16_t *restrict src, uint32_t *restrict bits, int64_t n)
{
    for (int64_t i = 0; i < n; i++) bits[i] = (uint32_t)src[i] << 16;
}

/* Three cases, all computed so that the loop has no branch: a normal number moves its exponent from bias 15 to bias
 * 127; a subnormal is an integer times 2^-24, which fp32 holds exactly; Inf and NaN keep the largest exponent. */
static void widen_f16(const uint16_t *restrict src, uint32_t *restrict bits, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t sign = (uint32_t)(src[i] & 0x8000) << 16, rest = src[i] & 0x7FFF;
        const float    small = (float)(int32_t)rest * 0x1p-24f;
        uint32_t       subnormal, normal = (rest << 13) + (112u << 23);
        memcpy(&subnormal, &small, 4);
        normal |= rest >= 0x7C00 ? 0x7F800000u : 0;
        bits[i] = sign | (rest < 0x0400 ? subnormal : normal);
    }
}

/* In pieces through the stack, so that src may lie in dst: reading runs ahead of writing until the last piece. */
void gr_widen_f32(gr_dtype from, const void *src, float *dst, int64_t n)
{
    uint16_t in[PIECE];
    uint32_t out[PIECE];

    if (from == GR_F32) {
        memmove(dst, src, (size_t)n * sizeof *dst);
        return;
    }
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t k = n - i < PIECE ? n - i : PIECE;
        memcpy(in, (const char *)src + 2 * i, (size_t)k * 2);
        if (from == GR_BF16)
            widen_bf16(in, out, k);
        else
            widen_f16(in, out, k);
        memcpy(dst + i, out, (size_t)k * 4);
    }
}
