#include "util/crc32c.h"
#include "util/fs.h"
#include "util/mem.h"
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>
#if defined __x86_64__
#include <immintrin.h>
#endif

static const uint32_t poly = 0x82F63B78; /* Castagnoli, bits reversed (RFC 3720, B.4) */

/* slice[k][b]: the CRC of byte b followed by k zero bytes. */
static uint32_t       slice[8][256];
static pthread_once_t slice_once = PTHREAD_ONCE_INIT;

static void slice_fill(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int i = 0; i < 8; i++) crc = crc >> 1 ^ (crc & 1 ? poly : 0);
        slice[0][b] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (int b = 0; b < 256; b++) slice[k][b] = slice[k - 1][b] >> 8 ^ slice[0][slice[k - 1][b] & 0xFF];
}

uint32_t gr_crc32c_portable(uint32_t crc, const void *data, size_t n)
{
    const uint8_t *p = data;

    pthread_once(&slice_once, slice_fill);
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        const uint32_t lo = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = slice[7][lo & 0xFF] ^ slice[6][lo >> 8 & 0xFF] ^ slice[5][lo >> 16 & 0xFF] ^ slice[4][lo >> 24] ^
              slice[3][p[4]] ^ slice[2][p[5]] ^ slice[1][p[6]] ^ slice[0][p[7]];
    }
    for (; n; n--, p++) crc = crc >> 8 ^ slice[0][(crc ^ *p) & 0xFF];
    return ~crc;
}

/* ---- combination ----------------------------------------------------------------------------- */

/* Product of two polynomials modulo `poly`, bits reversed: bit 31 is 1, bit 30 is x. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;

    for (int i = 31; i >= 0; i--) {
        product ^= -(a >> i & 1) & b;
        b = b >> 1 ^ (-(b & 1) & poly);
    }
    return product;
}

/* What n zero bytes do to a checksum: x^(8 n). */
static uint32_t zeros(uint64_t n)
{
    uint32_t power = 1u << 31, x = 1u << 23;

    for (; n; n >>= 1, x = multiply(x, x))
        if (n & 1) power = multiply(power, x);
    return power;
}

uint32_t gr_crc32c_combine(uint32_t a, uint32_t b, uint64_t n)
{
    return multiply(zeros(n), a) ^ b;
}

/* ---- hardware -------------------------------------------------------------------------------- */

#if defined __x86_64__
enum { LANE = 8192 }; /* the instruction starts every cycle and takes three: three lanes side by side */

static uint32_t       one_lane, two_lanes;
static pthread_once_t lanes_once = PTHREAD_ONCE_INIT;

static void lanes_fill(void)
{
    one_lane = zeros(LANE);
    two_lanes = zeros(2 * LANE);
}

static uint64_t load(const uint8_t *p)
{
    uint64_t word;

    memcpy(&word, p, sizeof word); /* p need not be aligned */
    return word;
}

__attribute__((target("sse4.2"))) static uint32_t three_lanes(uint32_t crc, const uint8_t *p)
{
    uint64_t a = crc, b = 0, c = 0;

    for (int i = 0; i < LANE; i += 8) {
        a = _mm_crc32_u64(a, load(p + i));
        b = _mm_crc32_u64(b, load(p + i + LANE));
        c = _mm_crc32_u64(c, load(p + i + 2 * LANE));
    }
    return multiply(two_lanes, (uint32_t)a) ^ multiply(one_lane, (uint32_t)b) ^ (uint32_t)c;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t       c = (uint32_t)~crc;

    if (n >= 3 * LANE) pthread_once(&lanes_once, lanes_fill);
    for (; n >= 3 * LANE; n -= 3 * LANE, p += 3 * LANE) c = three_lanes((uint32_t)c, p);
    for (; n >= 8; n -= 8, p += 8) c = _mm_crc32_u64(c, load(p));
    for (; n; n--, p++) c = _mm_crc32_u8((uint32_t)c, *p);
    return ~(uint32_t)c;
}
#endif

uint32_t gr_crc32c(uint32_t crc, const void *data, size_t n)
{
#if defined __x86_64__
    if (__builtin_cpu_supports("sse4.2")) return crc32c_sse42(crc, data, n);
#endif
    return gr_crc32c_portable(crc, data, n);
}

enum { PIECE = 1 << 20 /* bytes read at once: stays in the cache */ };

gr_status gr_crc32c_file(const char *path, uint64_t *bytes, uint32_t *crc)
{
    gr_status st = GR_OK;
    int       fd = -1;
    uint64_t  size = 0;
    uint32_t  sum = 0;
    char     *data = NULL;

    GR_TRY(gr_open_input(path, &fd, &size));
    GR_TRY(gr_alloc(&data, PIECE, 1, "bytes to check"));
    for (uint64_t at = 0; at < size; at += PIECE) {
        const uint64_t n = size - at < PIECE ? size - at : PIECE;
        GR_TRY(gr_pread_all(fd, data, n, at, path));
        sum = gr_crc32c(sum, data, n);
    }
    *bytes = size;
    *crc = sum;
out:
    gr_free(&data);
    if (fd >= 0) close(fd);
    return st;
}
