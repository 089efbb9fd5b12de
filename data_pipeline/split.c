#include "data_pipeline/split.h"
#include "data_pipeline/scan.h"
#include "data_pipeline/utf8.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* JIT stack: the bigger is taken only by patterns that backtrack per character. */
enum { JIT_STACK_FIRST = 64 << 10, JIT_STACK_MOST = 16 << 20 };

typedef struct foreign { /* code points [first, end) that PCRE2 sees otherwise, and who stands in for them */
    uint32_t first, end, stand_in;
} foreign;

struct gr_split {
    gr_unicode          *unicode; /* borrowed */
    const gr_scan       *scan;    /* a well-known pattern, or NULL */
    pcre2_code          *code;
    pcre2_match_data    *match;
    pcre2_match_context *context;
    pcre2_jit_stack     *stack;
    foreign             *foreign; /* ascending */
    int64_t              n_foreign, cap_foreign;
    gr_bytes             subject;
};

/* ---- what Oniguruma and PCRE2 read alike ------------------------------------------------------- */

/* What is wrong with the escape whose letter is at *p, or NULL; *p ends on its last character. */
static const char *unportable_escape(const char **p)
{
    const char letter = **p, *close;

    if (!letter) return "a backslash at the end";
    if ((letter == 'p' || letter == 'P' || letter == 'x') && (*p)[1] == '{') {
        close = strchr(*p, '}');
        if (!close) return "a { that is not closed";
        *p = close;
        return NULL;
    }
    if (strchr("sSdDpPrntxfv", letter) || !((letter | 32) >= 'a' && (letter | 32) <= 'z')) return NULL;
    return "an escape other than \\s \\S \\d \\D \\p \\P \\r \\n \\t \\f \\v \\x";
}

/* NULL, or what in the pattern the two engines understand differently. */
static const char *unportable(const char *p)
{
    bool in_set = false, after_count = false; /* the character before closed {1,3} */

    for (; *p; p++) {
        const bool counted = after_count;

        after_count = *p == '}';
        if (*p == '\\') {
            const char *const why = (p++, unportable_escape(&p));
            if (why) return why;
        } else if (in_set) {
            if (*p == '[') return "a set inside a set";
            if (*p == '&' && p[1] == '&') return "&& inside a set";
            if (*p == ']') in_set = false;
        } else if (*p == '[') {
            in_set = true;
            if (p[1] == '^') p++;
            if (p[1] == ']') return "a set that begins with ]";
        } else if (*p == '+' && counted) {
            return "}+ (possessive in PCRE2, repeated in Ruby)";
        } else if (*p == '(' && p[1] == '?' && !strchr(":=!<>i-", p[2])) {
            return "a group other than (?: (?= (?! (?<= (?<! (?> (?i:";
        } else if (*p == '(' && p[1] == '*') {
            return "a verb (*...)";
        }
    }
    return NULL;
}

static bool matches(gr_split *s, pcre2_code *code, uint32_t c)
{
    char      text[4];
    const int n = gr_utf8_encode(c, text);

    return pcre2_match(code, (PCRE2_SPTR)text, (PCRE2_SIZE)n, 0, PCRE2_NO_UTF_CHECK, s->match, NULL) > 0;
}

static gr_status add_foreign(gr_split *s, uint32_t first, uint32_t end, uint32_t stand_in)
{
    gr_status st = GR_OK;

    if (s->n_foreign == s->cap_foreign) {
        s->cap_foreign = 2 * s->cap_foreign + 256;
        GR_TRY(gr_realloc(&s->foreign, (uint64_t)s->cap_foreign, sizeof *s->foreign, "Unicode differences"));
    }
    s->foreign[s->n_foreign++] = (foreign){first, end, stand_in};
    for (uint32_t c = first; c < end; c++) s->unicode->cls[c] |= GR_CLASS_FOREIGN;
out:
    return st;
}

/* List the code points whose general category PCRE2 does not know as the reference does. The stand-in is the
 * closest lower code point of the same category and the same length in UTF-8: most likely of the same script. */
static gr_status find_foreign(gr_split *s)
{
    enum { LENGTHS = 5 };
    pcre2_code *code[GR_N_GC] = {NULL};
    uint32_t    known[GR_N_GC][LENGTHS] = {{0}};
    gr_status   st = GR_OK;
    uint32_t    first = 0, stand_in = 0;
    int         gc = 0, error = 0;
    bool        in_run = false;

    for (int i = 0; i < GR_N_GC; i++) {
        char       pattern[8] = {'\\', 'p', '{', gr_gc_name[i][0], gr_gc_name[i][1], '}', 0};
        PCRE2_SIZE at = 0;
        code[i] = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);
        GR_CHECK(code[i], GR_ERR_NOMEM, "PCRE2 cannot compile %s", pattern);
        pcre2_jit_compile(code[i], PCRE2_JIT_COMPLETE);
    }
    for (uint32_t c = 0x80; c <= GR_UNICODE_SIZE; c++) {
        const bool end = c == GR_UNICODE_SIZE || (c >= 0xD800 && c < 0xE000);
        const int  length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        const int  now = end ? 0 : gr_gc(c);
        const bool strange = !end && !matches(s, code[now], c) && known[now][length];

        if (in_run && (!strange || now != gc)) {
            GR_TRY(add_foreign(s, first, c, stand_in));
            in_run = false;
        }
        if (strange && !in_run) {
            in_run = true;
            first = c;
            gc = now;
            stand_in = known[now][length];
        }
        if (!strange && !end) known[now][length] = c;
        /* \s of PCRE2 takes U+180E, which is a format character like U+200B. */
        if (c == 0x180E && !strange) GR_TRY(add_foreign(s, c, c + 1, 0x200B));
    }
out:
    for (int i = 0; i < GR_N_GC; i++) pcre2_code_free(code[i]);
    return st;
}

/* The pattern is compiled with the meaning Ruby syntax gives it: ^ and $ at every line, . not \n. */
static gr_status open_pcre2(gr_split *s, const char *pattern, const char *name)
{
    const char *const      why = unportable(pattern);
    gr_status              st = GR_OK;
    int                    error = 0;
    PCRE2_SIZE             at = 0;
    PCRE2_UCHAR            text[128] = "";
    pcre2_compile_context *how = pcre2_compile_context_create(NULL);

    GR_CHECK(how, GR_ERR_NOMEM, "PCRE2: out of memory");
    GR_CHECK(!why, GR_ERR_INPUT, "%s: pre_tokenizer: pattern \"%s\" uses %s, which Graft does not support", name,
             pattern, why);
    pcre2_set_newline(how, PCRE2_NEWLINE_LF);
    s->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error,
                            &at, how);
    if (!s->code) pcre2_get_error_message(error, text, sizeof text);
    GR_CHECK(s->code, GR_ERR_INPUT, "%s: pre_tokenizer: bad pattern at character %zu of \"%s\": %s", name, (size_t)at,
             pattern, (const char *)text);
    s->match = pcre2_match_data_create(1, NULL);
    s->context = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MOST, NULL);
    GR_CHECK(s->match && s->context && s->stack, GR_ERR_NOMEM, "PCRE2: out of memory");
    pcre2_jit_stack_assign(s->context, NULL, s->stack);
    pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE); /* where there is no JIT, pcre2_match interprets */
    GR_TRY(find_foreign(s));
out:
    pcre2_compile_context_free(how);
    return st;
}

gr_status gr_split_open(gr_split **out_s, gr_unicode *u, const char *pattern, const char *name, bool scanner)
{
    gr_split *s = NULL;
    gr_status st = GR_OK;

    GR_TRY(gr_alloc(&s, 1, sizeof *s, "pre-tokenizer"));
    s->unicode = u;
    if (scanner) s->scan = gr_scan_find(pattern);
    if (!s->scan) GR_TRY(open_pcre2(s, pattern, name));
    *out_s = s;
    s = NULL;
out:
    gr_split_close(&s);
    return st;
}

void gr_split_close(gr_split **sp)
{
    gr_split *s = *sp;

    if (!s) return;
    pcre2_code_free(s->code);
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    gr_free(&s->foreign);
    gr_bytes_close(&s->subject);
    gr_free(sp);
}

static uint32_t stand_in_for(const gr_split *s, uint32_t c)
{
    int64_t lo = 0, hi = s->n_foreign - 1;

    while (lo < hi) {
        const int64_t mid = (lo + hi + 1) / 2;
        if (s->foreign[mid].first <= c)
            lo = mid;
        else
            hi = mid - 1;
    }
    return s->n_foreign && c >= s->foreign[lo].first && c < s->foreign[lo].end ? s->foreign[lo].stand_in : c;
}

gr_status gr_split_begin(gr_split *s, const char *text, int64_t n, gr_cut *c)
{
    gr_status st = GR_OK;
    bool      copied = false;
    int       length = 1;

    *c = (gr_cut){.text = text, .n = n, .match_first = -1, .last_match = -1, .subject = text};
    if (s->scan) goto out;
    for (int64_t at = 0; at < n; at += length) {
        const uint32_t point = gr_utf8_decode(text + at, &length);
        if (!(s->unicode->cls[point] & GR_CLASS_FOREIGN)) continue;
        if (!copied) {
            s->subject.n = 0;
            GR_TRY(gr_bytes_push(&s->subject, text, n));
            copied = true;
        }
        gr_utf8_encode(stand_in_for(s, point), s->subject.v + at);
    }
    if (copied) c->subject = s->subject.v;
out:
    return st;
}

/* The next match at or behind c->search, as the onig crate's find_iter yields it: an empty match right behind the
 * last one is skipped. No more: match_first = n + 1. */
static gr_status find_match(gr_split *s, gr_cut *c)
{
    gr_status st = GR_OK;

    for (;;) {
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(s->match);
        int               rc = PCRE2_ERROR_NOMATCH, length = 1;

        if (c->search <= c->n)
            rc = pcre2_match(s->code, (PCRE2_SPTR)c->subject, (PCRE2_SIZE)c->n, (PCRE2_SIZE)c->search,
                             PCRE2_NO_UTF_CHECK, s->match, s->context);
        c->match_first = c->match_end = c->n + 1;
        if (rc == PCRE2_ERROR_NOMATCH) break;
        GR_CHECK(rc >= 0, GR_ERR_INPUT,
                 "the pre-tokenizer's pattern gives up at byte %lld of the text (PCRE2 error %d)", (long long)c->search,
                 rc);
        if (v[0] == v[1] && c->last_match == (int64_t)v[1]) {
            if (c->search < c->n) gr_utf8_decode(c->text + c->search, &length);
            c->search += length;
            continue;
        }
        c->match_first = (int64_t)v[0];
        c->match_end = c->search = c->last_match = (int64_t)v[1];
        break;
    }
out:
    return st;
}

gr_status gr_split_next(gr_split *s, gr_cut *c)
{
    gr_status st = GR_OK;

    c->first = c->end;
    if (c->first == c->n) goto out;
    if (s->scan) {
        c->end = gr_scan_next(s->scan, s->unicode, c->text, c->n, c->first);
        goto out;
    }
    /* An empty match makes no piece of its own, but ends the one before it. */
    while (c->match_first < 0 || (c->match_first == c->match_end && c->match_first == c->first)) {
        GR_TRY(find_match(s, c));
        if (c->match_first > c->n) break;
    }
    if (c->match_first > c->n) {
        c->end = c->n;
    } else if (c->match_first > c->first) {
        c->end = c->match_first;
    } else {
        c->end = c->match_end;
        c->match_first = -1;
    }
out:
    return st;
}
