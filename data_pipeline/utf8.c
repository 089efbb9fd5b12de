#include "data_pipeline/utf8.h"

/* Length of the valid sequence at s, or minus the length of the maximal subpart of an invalid one. */
static int sequence(const unsigned char *s, int64_t n)
{
    const unsigned char lead = s[0];
    unsigned char       lo = 0x80, hi = 0xBF; /* what the second byte may be: Unicode 16.0, table 3-7 */
    int                 need;

    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return -1;
    need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (lead == 0xE0) lo = 0xA0;
    if (lead == 0xED) hi = 0x9F;
    if (lead == 0xF0) lo = 0x90;
    if (lead == 0xF4) hi = 0x8F;
    if (n < 2 || s[1] < lo || s[1] > hi) return -1;
    for (int i = 2; i < need; i++)
        if (i >= n || (s[i] & 0xC0) != 0x80) return -i;
    return need;
}

int64_t gr_utf8_valid(const char *text, int64_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    int64_t              at = 0;

    while (at < n) {
        uint64_t word;
        int      length;

        while (at + 8 <= n && (memcpy(&word, s + at, 8), !(word & UINT64_C(0x8080808080808080)))) at += 8;
        if (at == n) break;
        length = sequence(s + at, n - at);
        if (length < 0) break;
        at += length;
    }
    return at;
}

gr_status gr_utf8_replace(const char *text, int64_t n, gr_bytes *to, int64_t *n_replaced)
{
    gr_status st = GR_OK;
    int64_t   at = 0, count = 0;

    while (at < n) {
        const int64_t good = gr_utf8_valid(text + at, n - at);

        GR_TRY(gr_bytes_push(to, text + at, good));
        at += good;
        if (at < n) {
            GR_TRY(gr_bytes_push(to, "\xEF\xBF\xBD", 3));
            at += -sequence((const unsigned char *)text + at, n - at);
            count++;
        }
    }
    *n_replaced = count;
out:
    return st;
}

int gr_utf8_encode(uint32_t c, char to[4])
{
    if (c < 0x80) return to[0] = (char)c, 1;
    if (c < 0x800) return to[0] = (char)(0xC0 | c >> 6), to[1] = (char)(0x80 | (c & 0x3F)), 2;
    if (c < 0x10000) {
        to[0] = (char)(0xE0 | c >> 12);
        to[1] = (char)(0x80 | (c >> 6 & 0x3F));
        to[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    to[0] = (char)(0xF0 | c >> 18);
    to[1] = (char)(0x80 | (c >> 12 & 0x3F));
    to[2] = (char)(0x80 | (c >> 6 & 0x3F));
    to[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}
