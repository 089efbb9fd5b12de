#include "util/rng.h"
#include <math.h>

void gr_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    const uint64_t m0 = 0xD2511F53, m1 = 0xCD9E8D57; /* multipliers, paper table 2 */
    const uint32_t w0 = 0x9E3779B9, w1 = 0xBB67AE85; /* golden ratio, sqrt(3) - 1  */
    uint32_t       k0 = key[0], k1 = key[1];
    uint32_t       c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];

    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = m0 * c0, p1 = m1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += w0;
        k1 += w1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static void draw(uint64_t seed, uint64_t hi, uint64_t lo, uint32_t out[4])
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)lo, (uint32_t)(lo >> 32), (uint32_t)hi, (uint32_t)(hi >> 32)};

    gr_philox(key, counter, out);
}

/* Word 0 of a draw makes the uniform, words 2 and 3 the normal: the two are independent. */
float gr_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t r[4];

    draw(seed, stream, index, r);
    return (float)(r[0] >> 8) * 0x1p-24f;
}

float gr_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    const double two_pi = 6.283185307179586;
    uint32_t     r[4];

    draw(seed, stream, index, r);
    const double u = (r[2] + 0.5) * 0x1p-32; /* in (0, 1): the logarithm is finite */
    const double v = r[3] * 0x1p-32;
    return (float)(sqrt(-2.0 * log(u)) * cos(two_pi * v));
}

uint64_t gr_stream_of(const char *name)
{
    uint64_t h = UINT64_C(0xCBF29CE484222325); /* FNV-1a, 64 bits */

    for (; *name; name++) h = (h ^ (uint8_t)*name) * UINT64_C(0x100000001B3);
    return h;
}

/* One pass of the Feistel network over `bits` bits: the halves take turns, and each is changed by
 * a function of the other only, so every round, and hence the whole, can be undone. */
static uint64_t feistel(uint64_t seed, uint64_t epoch, uint64_t x, int bits)
{
    enum { ROUNDS = 8, TAG = 0x50455200 }; /* "PER": apart from the indices of gr_uniform */
    const int      low = bits / 2;
    const uint64_t mask_lo = (UINT64_C(1) << low) - 1, mask_hi = (UINT64_C(1) << (bits - low)) - 1;
    uint64_t       lo = x & mask_lo, hi = x >> low;

    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint32_t r[4];
        draw(seed, epoch, (TAG + round) << 32 | (round % 2 ? lo : hi), r);
        if (round % 2)
            hi ^= r[0] & mask_hi;
        else
            lo ^= r[0] & mask_lo;
    }
    return hi << low | lo;
}

int64_t gr_permute(uint64_t seed, uint64_t epoch, int64_t i, int64_t n)
{
    int      bits = 1;
    uint64_t x = (uint64_t)i;

    if (i < 0 || i >= n) return -1;
    while (bits < 63 && (INT64_C(1) << bits) < n) bits++;
    do x = feistel(seed, epoch, x, bits); /* fewer than two passes on average: 2^bits < 2 n */
    while (x >= (uint64_t)n);
    return (int64_t)x;
}
