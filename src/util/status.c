#include "util/status.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The only mutable global of the suite: who is speaking, and to whom. Written while there is one thread. */
static struct {
    const char *program;
    int         rank;
    char       *kept; /* NULL: to stderr */
    size_t      room;
} self = {.program = "graft"};

void gr_log_identity(const char *program, int rank)
{
    self.program = program;
    self.rank = rank;
}

void gr_log_keep(char *text, size_t room)
{
    self.kept = text;
    self.room = room;
}

const char *gr_status_name(gr_status st)
{
    static const char *const name[] = {"ok",        "stop request",  "locked",          "configuration",
                                       "bad input", "save failed",   "broken contract", "i/o",
                                       "numeric",   "out of memory", "device"};
    return name[st];
}

int gr_exit_code(gr_status st)
{
    switch (st) {
    case GR_OK: return 0;
    case GR_STOP: return 85;
    case GR_LOCKED: return 75;
    case GR_ERR_CONFIG:
    case GR_ERR_INPUT: return 2;
    case GR_ERR_SAVE: return 86;
    default: return 1;
    }
}

/* One write per line, so that lines of several ranks do not interleave. */
static void emit(const char *lead, const char *fmt, va_list ap, const char *tail)
{
    char   line[2048];
    size_t n;

    if (self.kept) return;
    n = (size_t)snprintf(line, sizeof line, "%s[%d]: %s", self.program, self.rank, lead);
    n += (size_t)vsnprintf(line + n, sizeof line - n, fmt, ap);
    if (n > sizeof line - 256) n = sizeof line - 256;
    snprintf(line + n, sizeof line - n, "%s\n", tail);
    fputs(line, stderr);
}

static void fail(const char *file, int line, gr_status code, const char *fmt, va_list ap)
{
    char lead[64], tail[192];

    if (self.kept && !*self.kept) vsnprintf(self.kept, self.room, fmt, ap);
    if (self.kept) return;
    snprintf(lead, sizeof lead, "error (%s): ", gr_status_name(code));
    snprintf(tail, sizeof tail, "  [%s:%d]", file, line);
    emit(lead, fmt, ap, tail);
}

gr_status gr_fail(const char *file, int line, gr_status code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fail(file, line, code, fmt, ap);
    va_end(ap);
    return code;
}

gr_status gr_fail0(const char *file, int line, gr_status code, const char *fmt, ...)
{
    va_list ap;

    if (self.rank != 0 && !self.kept) return code;
    va_start(ap, fmt);
    fail(file, line, code, fmt, ap);
    va_end(ap);
    return code;
}

void gr_log(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    emit("", fmt, ap, "");
    va_end(ap);
}

void gr_log0(const char *fmt, ...)
{
    va_list ap;

    if (self.rank != 0) return;
    va_start(ap, fmt);
    emit("", fmt, ap, "");
    va_end(ap);
}
