#include "run/metrics.h"
#include "util/fs.h"
#include "util/mem.h"
#include "util/text.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEAD "{\"step\":" /* how each of our records begins */

struct gr_metrics {
    int     fd;   /* -1 on other ranks           */
    char   *path; /* for messages                */
    gr_text line; /* the record being put together */
};

/* Is this line (without its newline) a record of a step <= last? */
static int keeps(const char *line, uint64_t n, int64_t last)
{
    const uint64_t lead = sizeof LEAD - 1;
    char          *end = NULL;
    long long      step;

    if (n < lead + 2 || strncmp(line, LEAD, lead) != 0 || line[n - 1] != '}') return 0;
    step = strtoll(line + lead, &end, 10); /* stops in the line: a newline or NUL follows it */
    return end > line + lead && (*end == ',' || *end == '}') && step <= last;
}

/* Keep the records up to step `last`, in place, and rewrite the file when that leaves something out. */
static gr_status truncate_after(const char *path, int64_t last)
{
    gr_status st = GR_OK;
    char     *text = NULL;
    uint64_t  n = 0, kept = 0;

    if (!gr_exists(path)) goto out;
    GR_TRY(gr_read_file(path, UINT64_C(1) << 36, &text, &n));
    for (uint64_t i = 0; i < n;) {
        const char *newline = memchr(text + i, '\n', n - i);
        uint64_t    len;

        if (!newline) break; /* torn */
        len = (uint64_t)(newline - (text + i)) + 1;
        if (keeps(text + i, len - 1, last)) {
            memmove(text + kept, text + i, len);
            kept += len;
        }
        i += len;
    }
    if (kept < n) GR_TRY(gr_write_file(path, text, kept));
out:
    gr_free(&text);
    return st;
}

static gr_status open_here(gr_metrics *m, const char *path, int64_t resume_step)
{
    gr_status st = GR_OK;

    GR_TRY(gr_strdup(&m->path, path));
    GR_TRY(truncate_after(path, resume_step));
    m->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    GR_CHECK(m->fd >= 0, GR_ERR_IO, "%s: %s", path, strerror(errno));
out:
    return st;
}

gr_status gr_metrics_open(gr_metrics **out, const gr_comm *comm, const char *path, int64_t resume_step)
{
    gr_status   st = GR_OK;
    gr_metrics *m = NULL;

    st = gr_alloc(&m, 1, sizeof *m, "metrics");
    if (st == GR_OK) m->fd = -1;
    if (st == GR_OK && gr_comm_rank(comm) == 0) st = open_here(m, path, resume_step);
    GR_TRY(gr_agree(comm, st));
    *out = m;
    m = NULL;
out:
    gr_metrics_close(&m);
    return st;
}

void gr_metrics_close(gr_metrics **m)
{
    if (!*m) return;
    if ((*m)->fd >= 0) close((*m)->fd);
    gr_text_close(&(*m)->line);
    gr_free(&(*m)->path);
    gr_free(m);
}

static void add_key(gr_metrics *m, const char *key)
{
    gr_text_put(&m->line, ",", 1);
    gr_text_quote(&m->line, key);
    gr_text_put(&m->line, ":", 1);
}

/* Nine digits tell any two floats apart. JSON knows no NaN. */
static void add_num(gr_metrics *m, double v)
{
    if (isfinite(v))
        gr_text_add(&m->line, "%.9g", v);
    else
        gr_text_add(&m->line, "null");
}

void gr_metrics_begin(gr_metrics *m, int64_t step)
{
    if (m->fd < 0) return;
    m->line.n = 0;
    gr_text_add(&m->line, LEAD "%" PRId64, step);
}

void gr_metrics_int(gr_metrics *m, const char *key, int64_t v)
{
    if (m->fd < 0) return;
    add_key(m, key);
    gr_text_add(&m->line, "%" PRId64, v);
}

void gr_metrics_num(gr_metrics *m, const char *key, double v)
{
    if (m->fd < 0) return;
    add_key(m, key);
    add_num(m, v);
}

void gr_metrics_str(gr_metrics *m, const char *key, const char *v)
{
    if (m->fd < 0) return;
    add_key(m, key);
    gr_text_quote(&m->line, v);
}

void gr_metrics_nums(gr_metrics *m, const char *key, const double *v, int64_t n)
{
    if (m->fd < 0) return;
    add_key(m, key);
    gr_text_put(&m->line, "[", 1);
    for (int64_t i = 0; i < n; i++) {
        if (i > 0) gr_text_put(&m->line, ",", 1);
        add_num(m, v[i]);
    }
    gr_text_put(&m->line, "]", 1);
}

gr_status gr_metrics_end(gr_metrics *m)
{
    gr_status st = GR_OK;
    ssize_t   n;

    if (m->fd < 0) goto out;
    gr_text_put(&m->line, "}\n", 2);
    GR_TRY(m->line.st);
    do n = write(m->fd, m->line.s, m->line.n);
    while (n < 0 && errno == EINTR);
    GR_CHECK(n >= 0, GR_ERR_IO, "%s: %s", m->path, strerror(errno));
    GR_CHECK((uint64_t)n == m->line.n, GR_ERR_IO, "%s: %zd of %" PRIu64 " bytes written: is the disk full?", m->path, n,
             m->line.n);
out:
    return st;
}
