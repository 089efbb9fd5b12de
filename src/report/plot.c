#include "report/plot.h"
#include "util/fs.h"
#include "util/text.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    RAW = 1500, /* most points of a curve as recorded          */
    MEAN = 120, /* stretches of its average                    */
    NAMED = 12, /* layers with a line of their own in the key  */
    HEIGHT = 420,
    ENTRY = 19 /* height of a line of the key, at the font of add_head */
};

/* ---- gnuplot ---- */

static gr_status child_failed(int code, const char *svg)
{
    gr_status st = GR_OK;

    GR_CHECK(code != ENOENT, GR_ERR_CONFIG, "gnuplot is not installed (Debian: gnuplot-nox); %s cannot be drawn", svg);
    GR_FAIL(GR_ERR_IO, "gnuplot for %s: %s", svg, strerror(code));
out:
    return st;
}

/* gnuplot <script >drawing */
static gr_status run_gnuplot(const char *script, const char *drawing, const char *svg)
{
    gr_status                  st = GR_OK;
    char                      *argv[] = {"gnuplot", "-", NULL};
    posix_spawn_file_actions_t io;
    pid_t                      child, done;
    int                        code, how = 0;

    code = posix_spawn_file_actions_init(&io);
    if (code != 0) return child_failed(code, svg);
    code = posix_spawn_file_actions_addopen(&io, STDIN_FILENO, script, O_RDONLY, 0);
    if (code == 0)
        code = posix_spawn_file_actions_addopen(&io, STDOUT_FILENO, drawing, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (code == 0) code = posix_spawnp(&child, argv[0], &io, NULL, argv, environ);
    if (code != 0) {
        st = child_failed(code, svg);
        goto out;
    }
    do done = waitpid(child, &how, 0);
    while (done < 0 && errno == EINTR);
    GR_CHECK(done == child && WIFEXITED(how) && WEXITSTATUS(how) == 0, GR_ERR_IO, "gnuplot failed to draw %s", svg);
out:
    posix_spawn_file_actions_destroy(&io);
    return st;
}

static gr_status draw(const char *svg, const gr_text *t)
{
    gr_status st = GR_OK;
    char      script[GR_PATH_MAX] = "", drawing[GR_PATH_MAX] = "", name[GR_PATH_MAX];

    GR_TRY(t->st);
    GR_TRY(gr_path(name, "%s.gp", svg));
    GR_TRY(gr_temporary(script, name));
    GR_TRY(gr_temporary(drawing, svg));
    GR_TRY(gr_write_file(script, t->s, t->n));
    GR_TRY(run_gnuplot(script, drawing, svg));
    GR_TRY(gr_publish(drawing, svg));
out:
    if (script[0]) unlink(script);
    if (drawing[0]) unlink(drawing);
    return st;
}

static void add_head(gr_text *t, int height, const char *title, const char *x, const char *y)
{
    gr_text_add(t,
                "set terminal svg size 720,%d dynamic noenhanced font 'sans-serif,13' background '#ffffff'\n"
                "set border 3 lc rgb '#888888'\n"
                "set tics nomirror textcolor rgb '#333333'\n"
                "set grid lc rgb '#e4e4e4' lt 1\n"
                "set key top right\n"
                "set title '%s'\nset xlabel '%s'\nset ylabel '%s'\n",
                height, title, x, y);
}

/* ---- curves ---- */

typedef struct axis {
    const double *x;    /* [n]                */
    double        unit; /* x is shown divided by this */
    const char   *label;
} axis;

static axis x_axis(const gr_curve *c)
{
    const double last = c->tokens[c->n - 1];

    if (last <= 0) return (axis){c->step, 1, "steps"};
    if (last >= 2e9) return (axis){c->tokens, 1e9, "billion tokens"};
    if (last >= 2e6) return (axis){c->tokens, 1e6, "million tokens"};
    if (last >= 2e3) return (axis){c->tokens, 1e3, "thousand tokens"};
    return (axis){c->tokens, 1, "tokens"};
}

/* Data block $name: means of y over at most `points` stretches of equal length. */
static void add_block(gr_text *t, const char *name, const axis *a, const double *y, int64_t stride, int64_t n,
                      int64_t points)
{
    const int64_t parts = n < points ? n : points;

    gr_text_add(t, "$%s << EOD\n", name);
    for (int64_t p = 0; p < parts; p++) {
        const int64_t i = n * p / parts, count = n * (p + 1) / parts - i;
        const double  mean = gr_curve_mean(y + i * stride, count, stride);

        if (isfinite(mean)) gr_text_add(t, "%.9g %.6g\n", gr_curve_mean(a->x + i, count, 1) / a->unit, mean);
    }
    gr_text_add(t, "EOD\n");
}

gr_status gr_plot_loss(const char *svg, const gr_curve *c)
{
    const axis a = x_axis(c);
    const bool taught = gr_curve_mean(c->kl, c->n, 1) > 0; /* false for NaN */
    char       title[2 * GR_MAX_NAME];
    gr_text    t = {0};
    gr_status  st;

    snprintf(title, sizeof title, "%s: training loss", c->stage);
    add_head(&t, HEIGHT, title, a.label, c->n_layer ? "normalised error" : "nats per token");
    add_block(&t, "raw", &a, c->loss, 1, c->n, RAW);
    add_block(&t, "mean", &a, c->loss, 1, c->n, MEAN);
    if (taught) {
        add_block(&t, "ce", &a, c->ce, 1, c->n, MEAN);
        add_block(&t, "kl", &a, c->kl, 1, c->n, MEAN);
    }
    if (c->n_held) {
        const axis h = {a.x == c->step ? c->held_step : c->held_tokens, a.unit, NULL};
        add_block(&t, "held", &h, c->held, 1, c->n_held, RAW);
    }
    gr_text_add(&t, "plot $raw using 1:2 with lines lw 1 lc rgb '#bcd0e8' notitle, \\\n"
                    "     $mean using 1:2 with lines lw 2 lc rgb '#1f5fa8' title 'loss'");
    if (c->n_held)
        gr_text_add(&t, ", \\\n     $held using 1:2 with points pt 7 ps 0.6 lc rgb '#b02a4c' title 'held-out'");
    if (taught)
        gr_text_add(&t, ", \\\n     $ce using 1:2 with lines lw 2 lc rgb '#7a7a7a' title 'cross-entropy', \\\n"
                        "     $kl using 1:2 with lines lw 2 lc rgb '#c8641e' title 'KL to the teacher'");
    gr_text_add(&t, "\n");
    st = draw(svg, &t);
    gr_text_close(&t);
    return st;
}

gr_status gr_plot_layers(const char *svg, const gr_curve *c)
{
    const axis    a = {c->step, 1, "steps"};
    const int64_t last = c->n_layer - 1;
    char          title[2 * GR_MAX_NAME];
    gr_text       t = {0};
    gr_status     st;

    snprintf(title, sizeof title, "%s: error of each new layer", c->stage);
    add_head(&t, HEIGHT, title, a.label, "normalised error");
    gr_text_add(&t, "set logscale y\n"
                    "set palette defined (0 '#30246e', 0.35 '#2a788e', 0.7 '#55b05f', 1 '#e0a020')\n"
                    "set cblabel 'layer'\n");
    gr_text_add(&t, "set cbrange [%" PRId64 ":%" PRId64 "]\n", c->layer_id[0], c->layer_id[last] + (last == 0));
    if (c->n_layer <= NAMED) gr_text_add(&t, "unset colorbox\n");
    for (int64_t l = 0; l < c->n_layer; l++) {
        char name[32];
        snprintf(name, sizeof name, "layer%" PRId64, l);
        add_block(&t, name, &a, c->layer + l, c->n_layer, c->n, MEAN);
    }
    for (int64_t l = 0; l < c->n_layer; l++) {
        gr_text_add(&t, "%s$layer%" PRId64 " using 1:2:(%" PRId64 ") with lines lw 2 lc palette",
                    l ? ", \\\n     " : "plot ", l, c->layer_id[l]);
        if (c->n_layer <= NAMED)
            gr_text_add(&t, " title 'layer %" PRId64 "'", c->layer_id[l]);
        else
            gr_text_add(&t, " notitle");
    }
    gr_text_add(&t, "\n");
    st = draw(svg, &t);
    gr_text_close(&t);
    return st;
}

/* ---- many runs ---- */

/* The axis for all of them: that of the longest, or steps. */
static axis common_axis(const gr_line *line, int64_t n)
{
    const gr_curve *longest = line->curve;

    for (int64_t i = 0; i < n; i++) {
        const gr_curve *c = line[i].curve;

        if (c->tokens[c->n - 1] <= 0) return (axis){NULL, 1, "steps"};
        if (c->tokens[c->n - 1] > longest->tokens[longest->n - 1]) longest = c;
    }
    return x_axis(longest);
}

/* Colours that can be told apart by most eyes (Okabe and Ito), then once more in dashes. */
static void add_style(gr_text *t, int64_t group)
{
    static const char *const colour[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"};
    const int64_t            n = (int64_t)(sizeof colour / sizeof *colour);

    gr_text_add(t, " with lines lw 1.5 lc rgb '%s' dt %d", colour[group % n], (int)(group / n % 5) + 1);
}

static bool first_of_group(const gr_line *line, int64_t i)
{
    for (int64_t k = 0; k < i; k++)
        if (line[k].group == line[i].group) return false;
    return true;
}

gr_status gr_plot_lines(const char *svg, const char *title, const gr_line *line, int64_t n)
{
    const axis common = common_axis(line, n);
    const bool layers = line->curve->n_layer > 0;
    gr_text    t = {0};
    gr_status  st;
    int        groups = 0;

    for (int64_t i = 0; i < n; i++) groups += first_of_group(line, i);
    add_head(&t, ENTRY * (groups + 4) > HEIGHT ? ENTRY * (groups + 4) : HEIGHT, title, common.label,
             layers ? "normalised error" : "nats per token");
    gr_text_add(&t, "set key outside right top\n%s", layers ? "set logscale y\n" : "");
    for (int64_t i = 0; i < n; i++) {
        const gr_curve *c = line[i].curve;
        const axis      a = {common.x ? c->tokens : c->step, common.unit, NULL};
        char            name[32];

        snprintf(name, sizeof name, "run%" PRId64, i);
        add_block(&t, name, &a, c->loss, 1, c->n, MEAN);
    }
    for (int64_t i = 0; i < n; i++) {
        gr_text_add(&t, "%s$run%" PRId64 " using 1:2", i ? ", \\\n     " : "plot ", i);
        add_style(&t, line[i].group);
        if (first_of_group(line, i))
            gr_text_add(&t, " title '%s'", line[i].label);
        else
            gr_text_add(&t, " notitle");
    }
    gr_text_add(&t, "\n");
    st = draw(svg, &t);
    gr_text_close(&t);
    return st;
}
