#include "data_pipeline/scan.h"
#include "data_pipeline/split.h"
#include "data_pipeline/utf8.h"

struct gr_scan {
    const char *pattern;
    bool        gpt2;   /* spaces lead letters and digits alike; contractions in lower case only */
    int         digits; /* digits per piece; 0: no limit (the GPT-2 form) */
};

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define REST         " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const gr_scan known[] = {
    {GR_GPT2_PATTERN, true, 0},
    {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|" REST, false, 1},      /* Qwen 2, 2.5, 3 */
    {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" REST, false, 3}, /* Llama 3 */
};

const gr_scan *gr_scan_find(const char *pattern)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(pattern, known[i].pattern)) return &known[i];
    return NULL;
}

/* Class and length of the code point at `at`. */
static inline int class_at(const gr_unicode *u, const char *text, int64_t at, int *length)
{
    const unsigned char c = (unsigned char)text[at];
    int                 k;

    if (c < 0x80) return *length = 1, u->cls[c] & GR_CLASS_MASK;
    k = u->cls[gr_utf8_decode(text + at, length)] & GR_CLASS_MASK;
    return k == GR_CLASS_MARK ? GR_CLASS_OTHER : k; /* these patterns do not tell marks */
}

static inline int64_t run_of(const gr_unicode *u, const char *text, int64_t n, int64_t at, int k)
{
    int length = 0;

    while (at < n && class_at(u, text, at, &length) == k) at += length;
    return at;
}

/* End of 's 't 're 've 'm 'll 'd behind the apostrophe at `at`, or 0. */
static int64_t contraction(const char *text, int64_t n, int64_t at, bool any_case)
{
    const int fold = any_case ? 32 : 0;
    int       a, b;

    if (at + 1 >= n) return 0;
    a = (unsigned char)text[at + 1];
    if (any_case && a == 0xC5 && (unsigned char)text[at + 2] == 0xBF) return at + 3; /* long s folds to s */
    if (any_case && !((a | 32) >= 'a' && (a | 32) <= 'z')) return 0;
    a |= fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
    if (at + 2 >= n) return 0;
    b = (unsigned char)text[at + 2];
    if (any_case && b >= 0x80) return 0;
    b |= fold;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? at + 3 : 0;
}

/* \s*[\r\n]+ (unless GPT-2) | \s+(?!\S) | \s+ at a space. */
static int64_t spaces(const gr_unicode *u, const char *text, int64_t n, int64_t at, bool newlines)
{
    int64_t end = at, last = at, newline = 0; /* `last`: start of the last space */
    int     length = 0;

    while (end < n) {
        const int k = class_at(u, text, end, &length);
        if (k != GR_CLASS_SPACE && k != GR_CLASS_NEWLINE) break;
        last = end;
        end += length;
        if (k == GR_CLASS_NEWLINE) newline = end;
    }
    if (newlines && newline) return newline;
    return end == n || last == at ? end : last;
}

static int64_t next_gpt2(const gr_unicode *u, const char *text, int64_t n, int64_t at)
{
    int64_t from = at;
    int     length = 0, k;
    int64_t end = text[at] == '\'' ? contraction(text, n, at, false) : 0;

    if (end) return end;
    if (text[at] == ' ' && at + 1 < n) from = at + 1;
    k = class_at(u, text, from, &length);
    if (k == GR_CLASS_SPACE || k == GR_CLASS_NEWLINE) return spaces(u, text, n, at, false);
    return run_of(u, text, n, from + length, k);
}

static int64_t next_modern(const gr_unicode *u, const char *text, int64_t n, int64_t at, int digits)
{
    int     length = 0, length2 = 0;
    int64_t end = text[at] == '\'' ? contraction(text, n, at, true) : 0;
    int     k = class_at(u, text, at, &length), k2 = -1;

    if (end) return end;
    if (k == GR_CLASS_LETTER) return run_of(u, text, n, at + length, k);
    if (k == GR_CLASS_NUMBER) {
        for (end = at + length; --digits > 0 && end < n && class_at(u, text, end, &length) == k;) end += length;
        return end;
    }
    if (at + length < n) k2 = class_at(u, text, at + length, &length2);
    if (k != GR_CLASS_NEWLINE && k2 == GR_CLASS_LETTER) return run_of(u, text, n, at + length + length2, k2);
    if (k == GR_CLASS_OTHER || (text[at] == ' ' && k2 == GR_CLASS_OTHER)) {
        end = run_of(u, text, n, at + length, GR_CLASS_OTHER);
        return run_of(u, text, n, end, GR_CLASS_NEWLINE);
    }
    return spaces(u, text, n, at, true);
}

int64_t gr_scan_next(const gr_scan *s, const gr_unicode *u, const char *text, int64_t n, int64_t at)
{
    return s->gpt2 ? next_gpt2(u, text, n, at) : next_modern(u, text, n, at, s->digits);
}
