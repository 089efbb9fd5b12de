/* Findings: from the rank that saw them to the page. */
#include "store/json_seal.h"
#include "util/mem.h"
#include "verify/room.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const verdict_name[GR_N_VERDICTS] = {"ok", "remark", "other", "missing", "damaged"};

/* As it travels: this, the path and the text, each with its NUL. */
typedef struct finding {
    int64_t  verdict, bytes;
    uint64_t n_path, n_text;
    char     kind[16];
} finding;

static bool is_bad(int64_t verdict)
{
    return verdict == GR_MISSING || verdict == GR_DAMAGED;
}

gr_status gr_find(gr_checker *k, gr_verdict verdict, const char *kind, const char *path, const char *fmt, ...)
{
    finding     f = {.verdict = verdict, .n_path = strlen(path) + 1};
    struct stat sb;
    va_list     ap;
    char        line[4096];

    if (gr_comm_rank(k->c) != 0 && !is_bad(verdict)) return GR_OK;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    f.n_text = strlen(line) + 1;
    snprintf(f.kind, sizeof f.kind, "%s", kind);
    if (!stat(path, &sb) && S_ISREG(sb.st_mode)) f.bytes = (int64_t)sb.st_size;
    gr_text_put(&k->findings, (const char *)&f, sizeof f);
    gr_text_put(&k->findings, path, f.n_path);
    gr_text_put(&k->findings, line, f.n_text);
    return k->findings.st;
}

/* Names and strings come from files that may be hostile: what a terminal would obey is made visible. */
static void tame(char *s, bool lines)
{
    for (; *s; s++)
        if (((unsigned char)*s < 0x20 && !(lines && *s == '\n')) || *s == 0x7f) *s = '?';
}

/* Without the path that begins most messages: the line has it already. */
static const char *without(const char *path, const char *cause)
{
    const size_t n = strlen(path);

    return !strncmp(cause, path, n) && !strncmp(cause + n, ": ", 2) ? cause + n + 2 : cause;
}

gr_status gr_judge(gr_checker *k, gr_status st, const char *kind, const char *path, const char *facts)
{
    const bool of_file = st == GR_ERR_INPUT || st == GR_ERR_IO || st == GR_ERR_CONFIG;
    gr_status  said = st;

    if (st == GR_OK) {
        said = gr_find(k, GR_GOOD, kind, path, "%s", facts);
    } else if (of_file) {
        tame(k->cause, false);
        said = GR_OK;
        if (gr_comm_rank(k->c) == 0 || *k->cause)
            said = gr_find(k, gr_exists(path) ? GR_DAMAGED : GR_MISSING, kind, path, "%s", without(path, k->cause));
    }
    if (said == GR_OK) *k->cause = 0;
    return said;
}

/* ---- on rank 0 ------------------------------------------------------------------------------------ */

typedef struct entry {
    finding f;
    char   *path, *text; /* in the gathered bytes */
    int64_t at;          /* order of arrival      */
} entry;

static int by_path(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    const int    order = strcmp(x->path, y->path);

    return order ? order : (x->at > y->at) - (x->at < y->at);
}

static gr_status unpack(char *all, int64_t n, entry **out, int64_t *n_out)
{
    gr_status st = GR_OK;
    entry    *e = NULL;
    int64_t   count = 0, room = 0;

    for (int64_t at = 0; at < n;) {
        if (count == room) {
            room = room ? 2 * room : 256;
            GR_TRY(gr_realloc(&e, (uint64_t)room, sizeof *e, "findings"));
        }
        memcpy(&e[count].f, all + at, sizeof e->f);
        e[count].path = all + at + sizeof e->f;
        e[count].text = e[count].path + e[count].f.n_path;
        e[count].at = count;
        at += (int64_t)(sizeof e->f + e[count].f.n_path + e[count].f.n_text);
        count++;
    }
    if (count) qsort(e, (size_t)count, sizeof *e, by_path);
    *out = e;
    *n_out = count;
    e = NULL;
out:
    gr_free(&e);
    return st;
}

/* One finding per path: the worst, and of equals the first that says something. */
static int64_t merge(entry *e, int64_t n)
{
    int64_t kept = 0;

    for (int64_t i = 0; i < n; i++) {
        entry *last = kept ? &e[kept - 1] : NULL;
        if (!last || strcmp(last->path, e[i].path) != 0)
            e[kept++] = e[i];
        else if (e[i].f.verdict > last->f.verdict || (e[i].f.verdict == last->f.verdict && !*last->text))
            *last = e[i];
    }
    return kept;
}

static void size_text(char dst[32], int64_t bytes)
{
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
    double                   v = (double)bytes;
    int                      u = 0;

    for (; v >= 999.5 && u < 4; u++) v /= 1000;
    snprintf(dst, 32, u == 0 ? "%.0f %s" : v < 9.995 ? "%.2f %s" : v < 99.95 ? "%.1f %s" : "%.0f %s", v, unit[u]);
}

/* What follows the first line of the text stands below it. */
static void print(const entry *e)
{
    char        size[32] = "";
    const char *rest = strchr(e->text, '\n');
    const int   n = rest ? (int)(rest - e->text) : (int)strlen(e->text);

    if (e->f.bytes) size_text(size, e->f.bytes);
    printf("%-8s %-12s %8s  %s", verdict_name[e->f.verdict], e->f.kind, size, e->path);
    if (n) printf(e->f.verdict == GR_GOOD ? "  (%.*s)" : ": %.*s", n, e->text);
    printf("\n");
    while (rest && rest[1]) {
        const char *line = rest + 1;
        rest = strchr(line, '\n');
        printf("%32s%.*s\n", "", rest ? (int)(rest - line) : (int)strlen(line), line);
    }
}

/* NULL, as json_pack takes it, when memory ends. */
static json_t *json_of(const char *s)
{
    json_t *v = json_string(s);

    return v ? v : json_string("(not UTF-8)");
}

static gr_status write_report(const char *path, const entry *e, int64_t n, const int64_t count[GR_N_VERDICTS],
                              int64_t bytes, double seconds)
{
    gr_status st = GR_OK;
    json_t   *list = json_array(), *tree;

    for (int64_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:o, s:o}", "verdict", verdict_name[e[i].f.verdict],
                                              "kind", e[i].f.kind, "bytes", (json_int_t)e[i].f.bytes, "path",
                                              json_of(e[i].path), "text", json_of(e[i].text)));
    tree = json_pack("{s:i, s:I, s:I, s:I, s:I, s:f, s:O}", "format", 1, "ok", (json_int_t)count[GR_GOOD], "damaged",
                     (json_int_t)count[GR_DAMAGED], "missing", (json_int_t)count[GR_MISSING], "bytes",
                     (json_int_t)bytes, "seconds", seconds, "findings", list);
    GR_CHECK(tree && (int64_t)json_array_size(list) == n, GR_ERR_NOMEM, "%s: report", path);
    GR_TRY(gr_json_write(tree, path));
out:
    json_decref(tree);
    json_decref(list);
    return st;
}

static gr_status show(char *text, int64_t n_text, bool all, const char *json_path, double seconds, int64_t total[2])
{
    gr_status st = GR_OK;
    entry    *e = NULL;
    int64_t   n = 0, count[GR_N_VERDICTS] = {0}, bytes = 0;
    char      size[32];

    GR_TRY(unpack(text, n_text, &e, &n));
    n = merge(e, n);
    for (int64_t i = 0; i < n; i++) {
        count[e[i].f.verdict]++;
        if (e[i].f.verdict == GR_GOOD || e[i].f.verdict == GR_DAMAGED) bytes += e[i].f.bytes;
        tame(e[i].path, false);
        tame(e[i].text, true);
        if (e[i].f.verdict != GR_FOREIGN || all) print(&e[i]);
    }
    size_text(size, bytes);
    printf("%" PRId64 " files, %s, %.2f s, %.2f GB/s: %" PRId64 " ok, %" PRId64 " damaged, %" PRId64 " missing",
           count[GR_GOOD] + count[GR_DAMAGED], size, seconds, seconds > 0 ? (double)bytes * 1e-9 / seconds : 0.0,
           count[GR_GOOD], count[GR_DAMAGED], count[GR_MISSING]);
    if (count[GR_FOREIGN]) printf("; %" PRId64 " not Graft's", count[GR_FOREIGN]);
    printf("\n");
    if (*json_path) GR_TRY(write_report(json_path, e, n, count, bytes, seconds));
    total[0] = count[GR_DAMAGED] + count[GR_MISSING];
    total[1] = count[GR_GOOD] + total[0];
out:
    gr_free(&e);
    return st;
}

gr_status gr_findings_report(gr_checker *k, const gr_comm *c, bool all, const char *json_path, double seconds,
                             int64_t *n_bad, int64_t *n_file)
{
    gr_status st = GR_OK;
    char     *text = NULL;
    int64_t  *offset = NULL, total[2] = {0};

    GR_TRY(gr_gather_bytes(c, k->findings.s, (int64_t)k->findings.n, &text, &offset));
    if (gr_comm_rank(c) == 0) st = show(text, offset[gr_comm_size(c)], all, json_path, seconds, total);
    GR_TRY(gr_agree(c, st));
    gr_bcast(c, total, sizeof total, 0);
    *n_bad = total[0];
    *n_file = total[1];
out:
    gr_free(&offset);
    gr_free(&text);
    return st;
}
