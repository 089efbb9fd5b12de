#include "data_pipeline/unicode.h"
#include "data_pipeline/unicode_table.h"
#include "data_pipeline/utf8.h"
#include <utf8proc.h>

#define COUNT(a) ((int64_t)(sizeof(a) / sizeof *(a)))

const char *const gr_gc_name[GR_N_GC] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
                                         "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc",
                                         "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};
enum { GC_LO = 4, GC_ME = 7, GC_ND = 8, GC_NL = 9, GC_NO = 10, GC_PC = 11 };

int gr_gc(uint32_t c)
{
    int64_t lo = 0, hi = COUNT(category_run) - 1;

    while (lo < hi) {
        const int64_t mid = (lo + hi + 1) / 2;
        if (category_run[mid] >> 5 <= c)
            lo = mid;
        else
            hi = mid - 1;
    }
    return (int)(category_run[lo] & 31);
}

static int class_of_gc(int gc)
{
    if (gc <= GC_LO) return GR_CLASS_LETTER | GR_CLASS_WORD;
    if (gc <= GC_ME) return GR_CLASS_MARK | GR_CLASS_WORD;
    if (gc <= GC_NO) return GR_CLASS_NUMBER | (gc <= GC_NL ? GR_CLASS_WORD : 0);
    return GR_CLASS_OTHER | (gc == GC_PC ? GR_CLASS_WORD : 0);
}

static void set_flag(uint8_t *cls, uint32_t first, uint32_t end, uint8_t flag)
{
    for (uint32_t c = first; c < end; c++) cls[c] |= flag;
}

gr_status gr_unicode_open(gr_unicode **out_u)
{
    /* \w is Alphabetic, M, Nd, Pc and Join_Control (UTS 18, annex C); Alphabetic beyond L and Nl is
     * marks and these circled and squared letters. */
    static const uint32_t word[][2] = {
        {0x200C, 0x200E}, {0x24B6, 0x24EA}, {0x1F130, 0x1F14A}, {0x1F150, 0x1F16A}, {0x1F170, 0x1F18A}};
    gr_unicode *u = NULL;
    gr_status   st = GR_OK;

    GR_TRY(gr_alloc(&u, 1, sizeof *u, "Unicode tables"));
    GR_TRY(gr_alloc(&u->cls, GR_UNICODE_SIZE, 1, "Unicode classes"));
    for (int64_t i = 0; i < COUNT(category_run); i++) {
        const uint32_t end = i + 1 < COUNT(category_run) ? category_run[i + 1] >> 5 : GR_UNICODE_SIZE;
        const uint32_t first = category_run[i] >> 5;
        memset(u->cls + first, class_of_gc((int)(category_run[i] & 31)), end - first);
    }
    for (int64_t i = 0; i < COUNT(space_edge); i += 2)
        memset(u->cls + space_edge[i], GR_CLASS_SPACE, space_edge[i + 1] - space_edge[i]);
    u->cls['\r'] = u->cls['\n'] = GR_CLASS_NEWLINE;
    for (int64_t i = 0; i < COUNT(word); i++) set_flag(u->cls, word[i][0], word[i][1], GR_CLASS_WORD);
    for (int64_t i = 0; i < COUNT(numeric_edge); i += 2)
        set_flag(u->cls, numeric_edge[i], numeric_edge[i + 1], GR_CLASS_NUMERIC);
    for (int64_t i = 0; i < COUNT(nfc_edge); i += 2) set_flag(u->cls, nfc_edge[i], nfc_edge[i + 1], GR_CLASS_NFC);
    *out_u = u;
    u = NULL;
out:
    gr_unicode_close(&u);
    return st;
}

void gr_unicode_close(gr_unicode **u)
{
    if (!*u) return;
    gr_free(&(*u)->cls);
    gr_free(&(*u)->point);
    gr_free(u);
}

/* Append NFC of a short segment: one boundary code point and the active ones after it. */
static gr_status nfc_segment(gr_unicode *u, const char *text, int64_t n, gr_bytes *to)
{
    gr_status               st = GR_OK;
    utf8proc_ssize_t        m = 0;
    const utf8proc_option_t option = UTF8PROC_STABLE | UTF8PROC_COMPOSE;

    /* A code point decomposes to at most 4 (U+1F82 and its kind). */
    if (u->n_point < 4 * n + 4) {
        GR_TRY(gr_realloc(&u->point, (uint64_t)(8 * n + 64), sizeof *u->point, "NFC scratch"));
        u->n_point = 8 * n + 64;
    }
    m = utf8proc_decompose((const utf8proc_uint8_t *)text, n, u->point, u->n_point, option);
    GR_CHECK(m >= 0 && m <= u->n_point, GR_ERR_ARG, "NFC: %s", m < 0 ? utf8proc_errmsg(m) : "overflow");
    m = utf8proc_normalize_utf32(u->point, m, option);
    GR_CHECK(m >= 0, GR_ERR_ARG, "NFC: %s", utf8proc_errmsg(m));
    GR_TRY(gr_bytes_reserve(to, 4 * m));
    for (utf8proc_ssize_t i = 0; i < m; i++) to->n += gr_utf8_encode((uint32_t)u->point[i], to->v + to->n);
out:
    return st;
}

gr_status gr_nfc(gr_unicode *u, const char *text, int64_t n, gr_bytes *to, bool *changed)
{
    const unsigned char *s = (const unsigned char *)text;
    gr_status            st = GR_OK;
    int64_t              at = 0, before = 0, copied = 0; /* `before`: start of the code point before at */
    int                  length = 0;

    *changed = false;
    while (at < n) {
        int64_t first = before, end = at;

        if (s[at] < 0xCC) { /* below U+0300 (and continuation bytes): never active */
            before = at;
            at++;
            while (at < n && (s[at] & 0xC0) == 0x80) at++;
            continue;
        }
        if (!(u->cls[gr_utf8_decode(text + at, &length)] & GR_CLASS_NFC)) {
            before = at;
            at += length;
            continue;
        }
        while (end < n && (u->cls[gr_utf8_decode(text + end, &length)] & GR_CLASS_NFC)) end += length;
        /* A code point that only newer editions treat as a mark is, to the reference, a stranger
         * that joins nothing: leave it out. */
        if (first < at) {
            const utf8proc_int32_t c = (utf8proc_int32_t)gr_utf8_decode(text + first, &length);
            if (utf8proc_get_property(c)->combining_class || (u->cls[c] & GR_CLASS_NFC)) first = at;
        }
        if (!*changed) to->n = 0;
        *changed = true;
        GR_TRY(gr_bytes_push(to, text + copied, first - copied));
        GR_TRY(nfc_segment(u, text + first, end - first, to));
        copied = before = at = end;
    }
    if (*changed) GR_TRY(gr_bytes_push(to, text + copied, n - copied));
out:
    return st;
}
