/* Growing text, and quoting that JSON reads back. */
/*TEST
np: 1
timeout: 10
*/
#include "tests/check.h"
#include "util/json.h"
#include "util/text.h"
#include <stdlib.h>
#include <string.h>

static void growth(void)
{
    gr_text t = {0};
    char    expect[16];

    for (int i = 0; i < 5000; i++) gr_text_add(&t, "%04d,", i);
    CHECK(t.st == GR_OK && t.n == 25000 && strlen(t.s) == 25000, "%llu bytes", (unsigned long long)t.n);
    for (int i = 0; i < 5000; i++) {
        snprintf(expect, sizeof expect, "%04d,", i);
        CHECK(!strncmp(t.s + 5 * i, expect, 5), "entry %d", i);
    }
    gr_text_close(&t);
    CHECK(!t.s && t.n == 0, "closed");
    gr_text_put(&t, "", 0);
    CHECK(t.s && !*t.s, "empty text is a string");
    gr_text_close(&t);
}

static void utf8(void)
{
    static const struct {
        const char *s;
        int         n;
        uint32_t    code;
    } table[] = {{"", 0, 0},
                 {"a", 1, 'a'},
                 {"\x7f", 1, 0x7F},
                 {"\xc2\x80", 2, 0x80},
                 {"\xdf\xbf", 2, 0x7FF},
                 {"\xe0\xa0\x80", 3, 0x800},
                 {"\xed\x9f\xbf", 3, 0xD7FF},
                 {"\xef\xbf\xbf", 3, 0xFFFF},
                 {"\xf0\x90\x80\x80", 4, 0x10000},
                 {"\xf4\x8f\xbf\xbf", 4, 0x10FFFF},
                 {"\x80", -1, 0},
                 {"\xc0\x80", -1, 0},         /* overlong NUL  */
                 {"\xc1\xbf", -1, 0},         /* overlong      */
                 {"\xe0\x9f\xbf", -1, 0},     /* overlong      */
                 {"\xf0\x8f\xbf\xbf", -1, 0}, /* overlong      */
                 {"\xed\xa0\x80", -1, 0},     /* surrogate     */
                 {"\xf4\x90\x80\x80", -1, 0}, /* past U+10FFFF */
                 {"\xf5\x80\x80\x80", -1, 0},
                 {"\xe2\x82", -1, 0}, /* cut off       */
                 {"\xc3", -1, 0},
                 {"\xff", -1, 0}};

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        uint32_t  code = 0;
        const int n = gr_utf8_next(table[i].s, &code);
        CHECK(n == table[i].n && (n <= 0 || code == table[i].code), "case %zu: %d bytes, U+%04X", i, n, (unsigned)code);
    }
}

/* Every code point survives the way through JSON. */
static void quoting(void)
{
    for (uint32_t c = 1; c <= 0x10FFFF; c += c < 0x3000 ? 1 : 997) {
        gr_text t = {0};
        char    s[5] = "";
        json_t *tree = NULL;

        if (c >= 0xD800 && c < 0xE000) continue;
        if (c < 0x80) {
            s[0] = (char)c;
        } else if (c < 0x800) {
            s[0] = (char)(0xC0 | c >> 6), s[1] = (char)(0x80 | (c & 0x3F));
        } else if (c < 0x10000) {
            s[0] = (char)(0xE0 | c >> 12), s[1] = (char)(0x80 | (c >> 6 & 0x3F)), s[2] = (char)(0x80 | (c & 0x3F));
        } else {
            s[0] = (char)(0xF0 | c >> 18), s[1] = (char)(0x80 | (c >> 12 & 0x3F));
            s[2] = (char)(0x80 | (c >> 6 & 0x3F)), s[3] = (char)(0x80 | (c & 0x3F));
        }
        gr_text_add(&t, "[");
        gr_text_quote(&t, s);
        gr_text_add(&t, "]");
        CHECK(t.st == GR_OK && gr_json_parse(t.s, t.n, "quoted", &tree) == GR_OK, "U+%04X", (unsigned)c);
        CHECK(tree && !strcmp(json_string_value(json_array_get(tree, 0)), s), "U+%04X came back as something else",
              (unsigned)c);
        json_decref(tree);
        gr_text_close(&t);
    }
}

int main(void)
{
    growth();
    utf8();
    quoting();
    return check_result();
}
