#include "data_pipeline/jsonl.h"
#include "data_pipeline/utf8.h"

enum { DEPTH_LIMIT = 64 };

typedef struct reader {
    const char     *s;
    int64_t         n, at;
    bool            replace;
    int64_t         n_replaced;
    gr_jsonl_error *error;
} reader;

static gr_status broken(reader *r, const char *what)
{
    r->error->what = what;
    r->error->at = r->at;
    return GR_ERR_INPUT;
}

static void skip_space(reader *r)
{
    while (r->at < r->n && strchr(" \t\r\n", r->s[r->at]) && r->s[r->at]) r->at++;
}

/* The character at hand, 0 at the end; a NUL byte in the line is nowhere allowed, so it may look the same. */
static char peek(const reader *r)
{
    return r->at < r->n ? r->s[r->at] : 0;
}

/* Four hex digits at r->at, or -1. */
static int32_t hex4(const reader *r)
{
    int32_t v = 0;

    if (r->at + 4 > r->n) return -1;
    for (int i = 0; i < 4; i++) {
        const char c = r->s[r->at + i], low = (char)(c | 32);
        if (c >= '0' && c <= '9')
            v = v * 16 + (c - '0');
        else if (low >= 'a' && low <= 'f')
            v = v * 16 + (low - 'a' + 10);
        else
            return -1;
    }
    return v;
}

/* What stands behind a backslash; to NULL: only checked. */
static gr_status read_escape(reader *r, gr_bytes *to)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    const char        c = peek(r);
    const char *const plain = c ? strchr(from, c) : NULL;
    int32_t           unit, low = -1;
    char              out[4];

    if (plain) {
        r->at++;
        return to ? gr_bytes_push(to, &into[plain - from], 1) : GR_OK;
    }
    if (c != 'u') return broken(r, "an unknown escape");
    r->at++;
    unit = hex4(r);
    if (unit < 0) return broken(r, "\\u without four hex digits");
    r->at += 4;
    if (unit >= 0xD800 && unit < 0xDC00 && r->at + 6 <= r->n && r->s[r->at] == '\\' && r->s[r->at + 1] == 'u') {
        r->at += 2;
        low = hex4(r);
        if (low >= 0xDC00 && low < 0xE000) {
            unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
            r->at += 4;
        } else {
            r->at -= 2;
        }
    }
    if (unit >= 0xD800 && unit < 0xE000) {
        if (to && !r->replace) return broken(r, "a lone surrogate");
        unit = 0xFFFD;
        if (to) r->n_replaced++;
    }
    return to ? gr_bytes_push(to, out, gr_utf8_encode((uint32_t)unit, out)) : GR_OK;
}

/* A string, from its opening quote on; to NULL: only checked. */
static gr_status read_string(reader *r, gr_bytes *to)
{
    gr_status st = GR_OK;

    if (peek(r) != '"') return broken(r, "a string was expected");
    r->at++;
    for (;;) {
        const int64_t from = r->at;

        while (r->at < r->n && r->s[r->at] != '"' && r->s[r->at] != '\\' && (unsigned char)r->s[r->at] >= 0x20) r->at++;
        if (to) GR_TRY(gr_bytes_push(to, r->s + from, r->at - from));
        if (r->at == r->n) return broken(r, "a string is not closed");
        if ((unsigned char)r->s[r->at] < 0x20) return broken(r, "a control character in a string");
        if (r->s[r->at++] == '"') break;
        GR_TRY(read_escape(r, to));
    }
out:
    return st;
}

static bool read_digits(reader *r)
{
    const int64_t from = r->at;

    while (peek(r) >= '0' && peek(r) <= '9') r->at++;
    return r->at > from;
}

static gr_status skip_number(reader *r)
{
    if (peek(r) == '-') r->at++;
    if (peek(r) == '0')
        r->at++;
    else if (!read_digits(r))
        return broken(r, "a value was expected");
    if (peek(r) == '.') {
        r->at++;
        if (!read_digits(r)) return broken(r, "a number without digits after its point");
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        r->at++;
        if (peek(r) == '+' || peek(r) == '-') r->at++;
        if (!read_digits(r)) return broken(r, "a number without digits in its exponent");
    }
    return GR_OK;
}

/* Any value, thrown away. `open` is the stack of brackets. */
static gr_status skip_value(reader *r)
{
    static const char *const word[] = {"true", "false", "null"};
    gr_status                st = GR_OK;
    char                     open[DEPTH_LIMIT];
    int                      depth = 0;

    for (;;) {
        char c;

        skip_space(r);
        c = peek(r);
        if (c == '{' || c == '[') {
            if (depth == DEPTH_LIMIT) return broken(r, "nested deeper than 64");
            open[depth++] = c;
            r->at++;
            skip_space(r);
            if (peek(r) != (c == '{' ? '}' : ']')) goto key;
        } else if (c == '"') {
            GR_TRY(read_string(r, NULL));
        } else if (c >= 'a' && c <= 'z') {
            int i = 0;
            while (i < 3 && (r->at + (int64_t)strlen(word[i]) > r->n || memcmp(r->s + r->at, word[i], strlen(word[i]))))
                i++;
            if (i == 3) return broken(r, "a value was expected");
            r->at += (int64_t)strlen(word[i]);
        } else {
            GR_TRY(skip_number(r));
        }
        for (;;) { /* a value is complete: close what ends here, or step to the next one */
            if (depth == 0) goto out;
            skip_space(r);
            if (peek(r) == ',') {
                r->at++;
                break;
            }
            if (peek(r) != (open[depth - 1] == '{' ? '}' : ']')) return broken(r, "a comma or a bracket was expected");
            r->at++;
            depth--;
        }
    key:
        if (open[depth - 1] == '{') {
            skip_space(r);
            GR_TRY(read_string(r, NULL));
            skip_space(r);
            if (peek(r) != ':') return broken(r, "a colon was expected");
            r->at++;
        }
    }
out:
    return st;
}

/* Is the key that begins at r->at (a quote) `field`? Keys with escapes are compared decoded. */
static gr_status read_key(reader *r, const char *field, gr_bytes *key, bool *is_field)
{
    gr_status st = GR_OK;

    key->n = 0;
    GR_TRY(read_string(r, key));
    *is_field = key->n == (int64_t)strlen(field) && !memcmp(key->v, field, (size_t)key->n);
    skip_space(r);
    if (peek(r) != ':') return broken(r, "a colon was expected");
    r->at++;
    skip_space(r);
out:
    return st;
}

gr_status gr_jsonl_string(const char *line, int64_t n, const char *field, bool replace, gr_bytes *text,
                          int64_t *n_replaced, gr_jsonl_error *error)
{
    reader        r = {line, n, 0, replace, 0, error};
    gr_status     st = GR_OK;
    gr_bytes      key = {0};
    bool          found = false;
    const int64_t start = text->n;

    *error = (gr_jsonl_error){NULL, 0};
    GR_TRY(gr_bytes_reserve(&key, 64)); /* so that an empty key has a pointer */
    skip_space(&r);
    if (peek(&r) != '{') GR_TRY(broken(&r, "an object was expected"));
    r.at++;
    skip_space(&r);
    while (peek(&r) != '}') {
        bool is_field = false;

        GR_TRY(read_key(&r, field, &key, &is_field));
        if (is_field) {
            text->n = start;
            r.n_replaced = 0;
            found = true;
            if (peek(&r) != '"') GR_TRY(broken(&r, "the field is not a string"));
            GR_TRY(read_string(&r, text));
        } else {
            GR_TRY(skip_value(&r));
        }
        skip_space(&r);
        if (peek(&r) == '}') break;
        if (peek(&r) != ',') GR_TRY(broken(&r, "a comma or } was expected"));
        r.at++;
        skip_space(&r);
        if (peek(&r) == '}') GR_TRY(broken(&r, "a comma before }"));
    }
    r.at++;
    skip_space(&r);
    if (r.at < n) GR_TRY(broken(&r, "something behind the object"));
    if (!found) GR_TRY(broken(&r, "the field is missing"));
    *n_replaced += r.n_replaced;
out:
    if (st != GR_OK) text->n = start;
    gr_bytes_close(&key);
    return st;
}
