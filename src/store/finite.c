#include "store/finite.h"

enum { PIECE = 4096 };

/* NaN and Inf are the numbers whose exponent bits are all ones. The inner loops have no exit, so they vectorise. */
static int64_t first32(const uint32_t *x, int64_t n, uint32_t exponent)
{
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t end = n - i < PIECE ? n : i + PIECE;
        uint32_t      found = 0;
        for (int64_t j = i; j < end; j++) found |= (x[j] & exponent) == exponent;
        for (int64_t j = i; found && j < end; j++)
            if ((x[j] & exponent) == exponent) return j;
    }
    return -1;
}

static int64_t first16(const uint16_t *x, int64_t n, uint16_t exponent)
{
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t end = n - i < PIECE ? n : i + PIECE;
        uint16_t      found = 0;
        for (int64_t j = i; j < end; j++) found |= (x[j] & exponent) == exponent;
        for (int64_t j = i; found && j < end; j++)
            if ((x[j] & exponent) == exponent) return j;
    }
    return -1;
}

int64_t gr_first_not_finite(gr_dtype dtype, const void *data, int64_t n)
{
    switch (dtype) {
    case GR_F32: return first32(data, n, 0x7F800000);
    case GR_BF16: return first16(data, n, 0x7F80);
    case GR_F16: return first16(data, n, 0x7C00);
    default: return -1;
    }
}
