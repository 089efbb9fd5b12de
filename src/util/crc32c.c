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

#if defined                                       __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t       c = ~crc;

    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8); /* p need not be aligned */
        c = _mm_crc32_u64(c, word);
    }
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
