#include "util/text.h"
#include "util/mem.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Room for n more bytes and the NUL. Doubling: the cost of a text is linear in its length. */
static void grow(gr_text *t, uint64_t n)
{
    uint64_t room = t->room ? t->room : 128;

    if (t->st != GR_OK || t->n + n + 1 <= t->room) return;
    while (room < t->n + n + 1) room *= 2;
    t->st = gr_realloc(&t->s, room, 1, "text");
    if (t->st == GR_OK) t->room = room;
}

void gr_text_put(gr_text *t, const char *s, uint64_t n)
{
    grow(t, n);
    if (t->st != GR_OK) return;
    memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = 0;
}

void gr_text_add(gr_text *t, const char *fmt, ...)
{
    va_list ap;
    int     n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 && t->st == GR_OK) t->st = gr_fail(__FILE__, __LINE__, GR_ERR_ARG, "cannot format \"%s\"", fmt);
    if (t->st == GR_OK) grow(t, (uint64_t)n);
    if (t->st != GR_OK) return;
    va_start(ap, fmt);
    vsnprintf(t->s + t->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    t->n += (uint64_t)n;
}

int gr_utf8_next(const char *s, uint32_t *code)
{
    const unsigned char *p = (const unsigned char *)s;
    const int n = p[0] < 0x80 ? 1 : p[0] < 0xC2 ? -1 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF5 ? 4 : -1;
    uint32_t  c = p[0];

    if (n == 1) {
        *code = c;
        return c != 0;
    }
    if (n < 0) return -1;
    c &= 0x7Fu >> n;
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) return -1; /* the NUL, too */
        c = c << 6 | (p[i] & 0x3F);
    }
    if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000) || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return -1;
    *code = c;
    return n;
}

/* Control characters, and what YAML takes for a line break, a byte order mark or no character at all. */
static int must_escape(uint32_t c)
{
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029 || c == 0xFEFF || c == 0xFFFE ||
           c == 0xFFFF;
}

void gr_text_quote(gr_text *t, const char *s)
{
    uint32_t c = 0;
    int      n;

    gr_text_put(t, "\"", 1);
    while ((n = gr_utf8_next(s, &c)) != 0) {
        if (n < 0) {
            gr_text_add(t, "\\ufffd");
            n = 1;
        } else if (c == '"' || c == '\\') {
            gr_text_add(t, "\\%c", (int)c);
        } else if (must_escape(c)) {
            gr_text_add(t, "\\u%04x", (unsigned)c);
        } else {
            gr_text_put(t, s, (uint64_t)n);
        }
        s += n;
    }
    gr_text_put(t, "\"", 1);
}

void gr_text_close(gr_text *t)
{
    gr_free(&t->s);
    *t = (gr_text){0};
}
