/** @file utf8.h  UTF-8: validation, replacement, one code point at a time.  [local]
 *
 * Valid is what Rust and RFC 3629 call valid: shortest form, no surrogates, at most U+10FFFF.
 */
#ifndef GR_DATA_PIPELINE_UTF8_H
#define GR_DATA_PIPELINE_UTF8_H
#include "data_pipeline/buffer.h"
#include <stdint.h>

GR_C_BEGIN

/** Bytes before the first invalid sequence: n when all of it is valid. */
int64_t gr_utf8_valid(const char *text, int64_t n);

/** Append `text` with every invalid sequence replaced by U+FFFD, one per maximal subpart (Unicode
 * 16.0, 3.9, practice U+FFFD; what Rust's from_utf8_lossy does). *n_replaced counts them. */
gr_status gr_utf8_replace(const char *text, int64_t n, gr_bytes *to, int64_t *n_replaced);

/** Code point at text[0] and its length; `text` is valid UTF-8 and not empty. */
static inline uint32_t gr_utf8_decode(const char *text, int *length)
{
    const unsigned char *s = (const unsigned char *)text;

    if (s[0] < 0x80) return *length = 1, s[0];
    if (s[0] < 0xE0) return *length = 2, (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3Fu);
    if (s[0] < 0xF0) return *length = 3, (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3Fu);
    return *length = 4, (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3F) << 12 | (uint32_t)(s[2] & 0x3F) << 6 |
                            (s[3] & 0x3Fu);
}

/** Start of the code point that ends before text[at], at > 0. */
static inline int64_t gr_utf8_before(const char *text, int64_t at)
{
    do at--;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

/** Write one code point (<= 4 bytes); returns its length. */
int gr_utf8_encode(uint32_t c, char to[4]);

GR_C_END
#endif
