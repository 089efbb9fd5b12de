#include "data_pipeline/corpus.h"
#include "data_pipeline/jsonl.h"
#include "data_pipeline/utf8.h"
#include "util/fs.h"
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    DEPTH_LIMIT = 32,   /* directories in directories; a loop of links ends here */
    EXTENSION = 1 << 20 /* bytes, when a document runs beyond its unit          */
};

/* ---- which files ------------------------------------------------------------------------------------ */

static gr_status add_file(gr_files *f, const char *path, int64_t size, int64_t *cap)
{
    gr_status st = GR_OK;

    if (f->n + 1 >= *cap) {
        *cap = 2 * *cap + 64;
        GR_TRY(gr_realloc(&f->name_at, (uint64_t)*cap, sizeof *f->name_at, "input files"));
        GR_TRY(gr_realloc(&f->first, (uint64_t)*cap, sizeof *f->first, "input files"));
    }
    f->name_at[f->n] = f->names.n;
    GR_CHECK(!__builtin_add_overflow(f->first[f->n], size, &f->first[f->n + 1]), GR_ERR_INPUT,
             "%s: the input has more bytes than can be counted", path);
    GR_TRY(gr_bytes_push(&f->names, path, (int64_t)strlen(path) + 1));
    f->n++;
out:
    return st;
}

static gr_status add_path(gr_files *f, const char *path, int depth, int64_t *cap)
{
    gr_status   st = GR_OK;
    struct stat sb;
    char      **names = NULL;
    int64_t     n = 0;
    char       *child = NULL;

    GR_CHECK(!stat(path, &sb), GR_ERR_INPUT, "input %s: %s", path, strerror(errno));
    if (!S_ISDIR(sb.st_mode)) {
        GR_CHECK(S_ISREG(sb.st_mode), GR_ERR_INPUT, "input %s: neither a regular file nor a directory", path);
        GR_TRY(add_file(f, path, sb.st_size, cap));
        goto out;
    }
    GR_CHECK(depth < DEPTH_LIMIT, GR_ERR_INPUT, "input %s: directories nested deeper than %d", path, DEPTH_LIMIT);
    GR_TRY(gr_list(path, &names, &n));
    GR_TRY(gr_alloc(&child, GR_PATH_MAX, 1, "path"));
    for (int64_t i = 0; i < n; i++) {
        if (names[i][0] == '.') continue;
        GR_TRY(gr_path(child, "%s/%s", path, names[i]));
        GR_TRY(add_path(f, child, depth + 1, cap));
    }
out:
    gr_free(&child);
    gr_names_free(&names, n);
    return st;
}

static int bytewise(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static gr_status add_glob(gr_files *f, const char *pattern, int64_t *cap)
{
    gr_status st = GR_OK;
    glob_t    found = {0};
    const int rc = glob(pattern, GLOB_NOSORT, NULL, &found);

    GR_CHECK(rc != GLOB_NOSPACE, GR_ERR_NOMEM, "input %s: out of memory", pattern);
    GR_CHECK(rc == 0 && found.gl_pathc > 0, GR_ERR_INPUT, "input %s: no such file, and as a pattern it matches none",
             pattern);
    qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, bytewise);
    for (size_t i = 0; i < found.gl_pathc; i++) GR_TRY(add_path(f, found.gl_pathv[i], 0, cap));
out:
    globfree(&found);
    return st;
}

gr_status gr_files_open(gr_files *f, const char *const *inputs, int64_t n_input)
{
    gr_status st = GR_OK;
    gr_files  fresh = {0};
    int64_t   cap = 16;

    GR_TRY(gr_alloc(&fresh.first, (uint64_t)cap, sizeof *fresh.first, "input files"));
    GR_TRY(gr_alloc(&fresh.name_at, (uint64_t)cap, sizeof *fresh.name_at, "input files"));
    for (int64_t i = 0; i < n_input; i++) {
        if (!gr_exists(inputs[i]) && strpbrk(inputs[i], "*?["))
            GR_TRY(add_glob(&fresh, inputs[i], &cap));
        else
            GR_TRY(add_path(&fresh, inputs[i], 0, &cap));
    }
    GR_CHECK(fresh.n > 0, GR_ERR_INPUT, "the input has no files");
    *f = fresh;
    fresh = (gr_files){0};
out:
    gr_files_close(&fresh);
    return st;
}

void gr_files_close(gr_files *f)
{
    gr_bytes_close(&f->names);
    gr_free(&f->name_at);
    gr_free(&f->first);
    f->n = 0;
}

gr_status gr_files_pack(const gr_files *f, gr_bytes *packed)
{
    gr_status st = GR_OK;

    packed->n = 0;
    GR_TRY(gr_bytes_push(packed, &f->n, sizeof f->n));
    GR_TRY(gr_bytes_push(packed, f->first, (f->n + 1) * (int64_t)sizeof *f->first));
    GR_TRY(gr_bytes_push(packed, f->name_at, f->n * (int64_t)sizeof *f->name_at));
    GR_TRY(gr_bytes_push(packed, f->names.v, f->names.n));
out:
    return st;
}

gr_status gr_files_unpack(gr_files *f, const char *packed, int64_t n)
{
    const int64_t word = sizeof(int64_t);
    gr_status     st = GR_OK;
    int64_t       n_file = 0, at;

    memcpy(&n_file, packed, sizeof n_file);
    at = word * (2 * n_file + 2);
    GR_CHECK(n >= at, GR_ERR_ARG, "a list of files of %lld bytes, expected %lld", (long long)n, (long long)at);
    f->n = n_file;
    GR_TRY(gr_alloc(&f->first, (uint64_t)n_file + 1, sizeof *f->first, "input files"));
    GR_TRY(gr_alloc(&f->name_at, (uint64_t)n_file, sizeof *f->name_at, "input files"));
    memcpy(f->first, packed + word, (size_t)(word * (n_file + 1)));
    memcpy(f->name_at, packed + word * (n_file + 2), (size_t)(word * n_file));
    GR_TRY(gr_bytes_push(&f->names, packed + at, n - at));
out:
    return st;
}

int64_t gr_files_units(const gr_files *f, int64_t unit_bytes)
{
    const int64_t total = f->first[f->n];

    return total / unit_bytes + (total % unit_bytes != 0);
}

/* ---- documents ---------------------------------------------------------------------------------------- */

/* The part of one file that belongs to a unit. */
typedef struct slice {
    const char       *path;
    const gr_reading *how;
    int               fd;
    int64_t           size;       /* of the file                                         */
    int64_t           first, end; /* documents that begin in here                        */
    gr_bytes          held;       /* bytes [from, from + held.n) of the file             */
    int64_t           from;
    gr_bytes          clean; /* scratch: a document with replacements               */
} slice;

void gr_documents_close(gr_documents *d)
{
    gr_bytes_close(&d->text);
    gr_free(&d->end);
    d->n = d->cap = 0;
}

/* The document is complete at the end of d->text. */
static gr_status close_document(gr_documents *d)
{
    gr_status     st = GR_OK;
    const int64_t start = d->n ? d->end[d->n - 1] : 0;

    if (d->text.n == start) {
        d->n_empty++;
        goto out;
    }
    if (d->n == d->cap) {
        d->cap = 2 * d->cap + 64;
        GR_TRY(gr_realloc(&d->end, (uint64_t)d->cap, sizeof *d->end, "documents"));
    }
    d->end[d->n++] = d->text.n;
out:
    return st;
}

/* Number of the line that holds byte `at` of the file; only for messages. 0: could not be read. */
static int64_t line_number(const slice *s, int64_t at)
{
    int64_t line = 1;
    char    block[4096];

    for (int64_t i = 0; i < at;) {
        const int64_t n = at - i < (int64_t)sizeof block ? at - i : (int64_t)sizeof block;
        if (gr_pread_all(s->fd, block, (uint64_t)n, (uint64_t)i, s->path) != GR_OK) return 0;
        for (int64_t k = 0; k < n; k++) line += block[k] == '\n';
        i += n;
    }
    return line;
}

/* Make text[0..n), which lies at byte `at` of the file, valid UTF-8: *text and *n may come to point to s->clean. */
static gr_status make_valid(gr_documents *d, slice *s, int64_t at, const char **text, int64_t *n)
{
    gr_status     st = GR_OK;
    const int64_t valid = gr_utf8_valid(*text, *n);
    int64_t       replaced = 0;

    if (valid == *n) goto out;
    GR_CHECK(s->how->replace_invalid, GR_ERR_INPUT, "%s: not UTF-8 at byte %lld (0x%02x)", s->path,
             (long long)(at + valid), (unsigned char)(*text)[valid]);
    s->clean.n = 0;
    GR_TRY(gr_utf8_replace(*text, *n, &s->clean, &replaced));
    d->n_replaced += replaced;
    *text = s->clean.v;
    *n = s->clean.n;
out:
    return st;
}

static gr_status add_text(gr_documents *d, slice *s, int64_t at, const char *text, int64_t n)
{
    gr_status st = GR_OK;

    GR_TRY(make_valid(d, s, at, &text, &n));
    GR_TRY(gr_bytes_push(&d->text, text, n));
    GR_TRY(close_document(d));
out:
    return st;
}

static bool blank(const char *text, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r') return false;
    return true;
}

static gr_status add_json(gr_documents *d, slice *s, int64_t at, const char *line, int64_t n)
{
    gr_status      st = GR_OK;
    gr_jsonl_error error;

    if (blank(line, n)) goto out;
    GR_TRY(make_valid(d, s, at, &line, &n));
    st = gr_jsonl_string(line, n, s->how->field, s->how->replace_invalid, &d->text, &d->n_replaced, &error);
    GR_CHECK(st != GR_ERR_INPUT, GR_ERR_INPUT, "%s:%lld: expected {\"%s\": string}; at byte %lld of the line: %s",
             s->path, (long long)line_number(s, at), s->how->field, (long long)error.at, error.what);
    GR_TRY(st);
    GR_TRY(close_document(d));
out:
    return st;
}

/* Hold at least the bytes up to `end` (or the end of the file). */
static gr_status hold(slice *s, int64_t end)
{
    gr_status     st = GR_OK;
    const int64_t have = s->from + s->held.n;

    if (end > s->size) end = s->size;
    if (end <= have) goto out;
    GR_TRY(gr_bytes_reserve(&s->held, end - have));
    GR_TRY(gr_pread_all(s->fd, s->held.v + s->held.n, (uint64_t)(end - have), (uint64_t)have, s->path));
    s->held.n += end - have;
out:
    return st;
}

/* Find where the line that begins at file position `at` < size ends (its \n, or the end of the file). */
static gr_status line_end(slice *s, int64_t at, int64_t *end)
{
    gr_status st = GR_OK;
    int64_t   searched = at;

    for (;;) {
        const int64_t     have = s->from + s->held.n;
        const char *const p =
            have > searched ? memchr(s->held.v + (searched - s->from), '\n', (size_t)(have - searched)) : NULL;
        if (p) {
            *end = s->from + (p - s->held.v);
            break;
        }
        if (have == s->size) {
            *end = s->size;
            break;
        }
        searched = have;
        GR_TRY(hold(s, have + EXTENSION));
    }
out:
    return st;
}

/* Where to begin reading so that the line that holds byte s->first - 1 is known to be blank or not: at its first byte,
 * or at one that is not blank. */
static gr_status look_back(const slice *s, int64_t *start)
{
    gr_status st = GR_OK;
    char      block[4096];

    *start = 0;
    for (int64_t end = s->first - 1, n; end > 0; end -= n) {
        n = end < (int64_t)sizeof block ? end : (int64_t)sizeof block;
        GR_TRY(gr_pread_all(s->fd, block, (uint64_t)n, (uint64_t)(end - n), s->path));
        for (int64_t i = n; i > 0; i--) {
            *start = end - n + i - (block[i - 1] != '\n');
            if (!blank(block + i - 1, 1)) goto out;
        }
    }
    *start = 0;
out:
    return st;
}

/* Length without the \r of a \r\n. */
static int64_t without_cr(const char *text, int64_t n)
{
    return n > 0 && text[n - 1] == '\r' ? n - 1 : n;
}

/* Lines and JSONL: each line that begins in [first, end). The one that byte first - 1 belongs to does not. */
static gr_status read_lines(gr_documents *d, slice *s)
{
    gr_status st = GR_OK;

    for (int64_t at = s->from, end = 0; at < s->end; at = end + 1) {
        const char *line;

        GR_TRY(line_end(s, at, &end));
        line = s->held.v + (at - s->from);
        if (at < s->first) continue;
        if (s->how->document == GR_DOCUMENT_JSONL)
            GR_TRY(add_json(d, s, at, line, end - at));
        else
            GR_TRY(add_text(d, s, at, line, without_cr(line, end - at)));
    }
out:
    return st;
}

/* Paragraphs that begin in [first, end). */
static gr_status read_paragraphs(gr_documents *d, slice *s)
{
    gr_status st = GR_OK;
    int64_t   start = -1, stop = 0; /* the paragraph at hand; -1: between paragraphs */

    for (int64_t at = s->from, end = 0;; at = end + 1) {
        bool over = at >= s->size;

        if (!over && at >= s->end && (start < 0 || start < s->first)) break;
        if (!over) {
            GR_TRY(line_end(s, at, &end));
            over = blank(s->held.v + (at - s->from), end - at);
        }
        if (!over) {
            if (start < 0) start = at;
            stop = end;
        } else {
            if (start >= s->first) {
                const char *const text = s->held.v + (start - s->from);
                GR_TRY(add_text(d, s, start, text, without_cr(text, stop - start)));
            }
            start = -1;
        }
        if (at >= s->size) break;
    }
out:
    return st;
}

static gr_status read_slice(gr_documents *d, slice *s)
{
    gr_status st = GR_OK;
    uint64_t  size = 0;

    GR_TRY(gr_open_input(s->path, &s->fd, &size));
    GR_CHECK((int64_t)size == s->size, GR_ERR_INPUT, "%s: has %llu bytes now, had %lld when the job began", s->path,
             (unsigned long long)size, (long long)s->size);
    if (s->first > 0) s->from = s->first - 1;
    if (s->first > 0 && s->how->document == GR_DOCUMENT_PARAGRAPH) GR_TRY(look_back(s, &s->from));
    GR_TRY(hold(s, s->how->document == GR_DOCUMENT_FILE ? s->size : s->end));
    if (s->first > 0 && !memchr(s->held.v, '\n', (size_t)s->held.n)) goto out; /* inside one long line */
    switch (s->how->document) {
    case GR_DOCUMENT_FILE: GR_TRY(add_text(d, s, 0, s->held.v, s->held.n)); break;
    case GR_DOCUMENT_LINE:
    case GR_DOCUMENT_JSONL: GR_TRY(read_lines(d, s)); break;
    case GR_DOCUMENT_PARAGRAPH: GR_TRY(read_paragraphs(d, s)); break;
    }
out:
    if (s->fd >= 0) close(s->fd);
    gr_bytes_close(&s->held);
    gr_bytes_close(&s->clean);
    return st;
}

gr_status gr_documents_read(gr_documents *d, const gr_files *f, const gr_reading *how, int64_t u)
{
    gr_status     st = GR_OK;
    const int64_t first = u * how->unit_bytes, last = gr_files_units(f, how->unit_bytes) - 1;
    const int64_t end = u == last ? f->first[f->n] : first + how->unit_bytes;

    d->n = d->text.n = d->n_empty = d->n_replaced = 0;
    for (int64_t i = 0; i < f->n; i++) {
        const int64_t a = f->first[i], b = f->first[i + 1];
        slice         s = {.path = f->names.v + f->name_at[i], .how = how, .fd = -1, .size = b - a};

        if (a == b && how->document == GR_DOCUMENT_FILE && (first <= a && (a < end || u == last))) d->n_empty++;
        if (a == b || b <= first || a >= end) continue;
        s.first = first > a ? first - a : 0;
        s.end = (end < b ? end : b) - a;
        if (how->document == GR_DOCUMENT_FILE && s.first > 0) continue; /* began in an earlier unit */
        GR_TRY(read_slice(d, &s));
    }
out:
    return st;
}
