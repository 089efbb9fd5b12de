#include "run/room.h"
#include "util/mem.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define REDRAW_S 0.5  /* seconds between two drawings                                     */
#define MEMORY_S 20.0 /* the rate forgets what is older than about so many seconds         */

enum { BAR = 20, LINE = 512, WIDTH = 80 };

struct gr_progress {
    char    what[64]; /* the stage being drawn        */
    int64_t done;     /* at the last drawing          */
    double  at_s;     /* when that was                */
    double  rate;     /* items per second; 0: unknown */
    bool    drawn;    /* a line waits for its end     */
};

gr_status gr_progress_open(gr_run *run)
{
    const char *wish = getenv("GR_PROGRESS");

    if (gr_comm_rank(run->comm) != 0 || !(wish ? !strcmp(wish, "1") : isatty(STDERR_FILENO))) return GR_OK;
    return gr_alloc(&run->progress, 1, sizeof *run->progress, "progress");
}

void gr_progress_close(gr_run *run)
{
    if (run->progress && run->progress->drawn) fputc('\n', stderr);
    gr_free(&run->progress);
}

/* 9 s, 4:05, 3:04:05, 2 d 03:04 */
static void duration(char *dst, size_t size, double s)
{
    const long long t = (long long)fmin(s + 0.5, 1e12);

    if (t < 60)
        snprintf(dst, size, "%lld s", t);
    else if (t < 3600)
        snprintf(dst, size, "%lld:%02lld", t / 60, t % 60);
    else if (t < 86400)
        snprintf(dst, size, "%lld:%02lld:%02lld", t / 3600, t / 60 % 60, t % 60);
    else
        snprintf(dst, size, "%lld d %02lld:%02lld", t / 86400, t / 3600 % 24, t / 60 % 60);
}

static int terminal_width(void)
{
    struct winsize w = {0};

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) != 0 || w.ws_col == 0) return WIDTH;
    return w.ws_col < LINE ? w.ws_col : LINE;
}

static void draw(const struct gr_progress *p, int64_t done, int64_t total, const char *note)
{
    const double part = total > 0 ? fmin((double)done / (double)total, 1) : 1;
    const int    full = (int)(part * BAR);
    char         line[LINE], left[32] = "?";

    if (p->rate > 0) duration(left, sizeof left, (double)(total - done) / p->rate);
    snprintf(line, sizeof line, "%s [%.*s%.*s] %lld/%lld  %.3g/s%s%s%s%s", p->what, full, "####################",
             BAR - full, "....................", (long long)done, (long long)total, p->rate,
             done < total ? "  ETA " : "", done < total ? left : "", note ? "  " : "", note ? note : "");
    fprintf(stderr, "\r%.*s\033[K%s", terminal_width() - 1, line,
            done < total ? "" : "\n"); /* a full line would wrap */
    fflush(stderr);
}

void gr_progress(const gr_run *run, const char *what, int64_t done, int64_t total, const char *note)
{
    struct gr_progress *p = run->progress;
    const double        now = gr_now();
    double              dt;

    if (!p) return;
    if (strncmp(p->what, what, sizeof p->what - 1) != 0 || done < p->done) { /* another stage */
        if (p->drawn) fputc('\n', stderr);
        *p = (struct gr_progress){.done = done, .at_s = now};
        snprintf(p->what, sizeof p->what, "%s", what);
        if (done < total) return; /* no rate yet */
    }
    dt = now - p->at_s;
    if (done == p->done || (dt < REDRAW_S && done < total)) return;
    if (dt > 0) {
        const double fresh = (double)(done - p->done) / dt, keep = p->rate > 0 ? exp(-dt / MEMORY_S) : 0;
        p->rate = keep * p->rate + (1 - keep) * fresh;
    }
    p->done = done;
    p->at_s = now;
    p->drawn = done < total;
    draw(p, done, total, note);
}
