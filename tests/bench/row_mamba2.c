/* The layer of Mamba-2, projections included, against transformers' layer as it runs without a GPU.
 *
 *     row_mamba2 T
 */
/*ROW
id: C5
title: mamba2-layer: B 1, hidden 1024, 16 heads of 128, fp32
unit: ms
ceiling: fma 2
case: T=2048 | 2048 | threads=2
peer: peer_mamba2.py
bar: T=2048 fwd+bwd | peer | 20 | 50
*/
#include "mixers/registry.h"
#include "tests/bench/bench.h"

enum { HIDDEN = 1024, HEADS = 16, D = 128, HD = HEADS * D, TAPS = 4, SETS = 2, CHECKED = 64 };
enum { W_IN, CONV, CONV_BIAS, DT_BIAS, A_LOG, SKIP, NORM, W_OUT, PARAMS }; /* in the order of params()         */
enum { ROW_X = HD, ROW_B = 2 * HD, ROW_C = 3 * HD, ROW_DT = 4 * HD, ROWS = 4 * HD + HEADS }; /* of in_proj         */

typedef struct layer {
    const gr_mixer_def *def;
    const gr_ops       *op;
    gr_mixer_spec       spec;
    gr_mixer_ctx        ctx;
    gr_seq              seq;
    gr_arena           *keep, *scratch;
    int32_t             doc[2];
    gr_tensor           w[PARAMS], dw[PARAMS], x[SETS], y, dx, dy;
    int                 n, turn, last;
} layer;

/* Ranges as a trained layer has them: projections that keep the size of their input, decay e^-16 to e^-0.001. */
static void fill(layer *l, int i)
{
    static const float low[PARAMS] = {-0.05f, -0.6f, -0.1f, -6, 0, 0.5f, 0.5f, -0.05f},
                       high[PARAMS] = {0.05f, 0.6f, 0.1f, -2, 2.7f, 1.5f, 1.5f, 0.05f};

    bench_fill(l->w[i].data, gr_count(l->w[i]), (uint64_t)i, low[i], high[i]);
}

static void layer_open(layer *l, int n)
{
    gr_param_spec p[GR_MIXER_PARAMS];

    l->n = l->doc[1] = n;
    l->spec = (gr_mixer_spec){.hidden = HIDDEN,
                              .n_head = HEADS,
                              .n_kv_head = HEADS,
                              .head_dim = D,
                              .norm_eps = 1e-5f,
                              .conv_width = TAPS,
                              .chunk = 64};
    if (l->def->params(&l->spec, p) != PARAMS) exit(1);
    for (int i = 0; i < PARAMS; i++) {
        const int64_t size = p[i].dim[0] * p[i].dim[1] * p[i].dim[2];

        l->w[i] = (gr_tensor){bench_floats(size), GR_F32, p[i].rank, {p[i].dim[0], p[i].dim[1], p[i].dim[2], 1}};
        l->dw[i] = l->w[i];
        l->dw[i].data = bench_floats(size);
        fill(l, i);
    }
    for (int s = 0; s < SETS; s++) {
        l->x[s] = gr_view2(bench_floats((int64_t)n * HIDDEN), GR_F32, n, HIDDEN);
        bench_fill(l->x[s].data, gr_count(l->x[s]), 16 + (uint64_t)s, -1.7f, 1.7f); /* variance 1, as after a norm */
    }
    l->y = gr_view2(bench_floats((int64_t)n * HIDDEN), GR_F32, n, HIDDEN);
    l->dx = gr_view2(bench_floats((int64_t)n * HIDDEN), GR_F32, n, HIDDEN);
    l->dy = gr_view2(bench_floats((int64_t)n * HIDDEN), GR_F32, n, HIDDEN);
    bench_fill(l->dy.data, gr_count(l->dy), 24, -1.7f, 1.7f);
    l->seq = (gr_seq){.n = n, .n_doc = 1, .doc = l->doc};
    l->ctx.op = l->op, l->ctx.spec = &l->spec, l->ctx.seq = &l->seq, l->ctx.w = l->w, l->ctx.dw = l->dw;
    l->ctx.keep = l->keep, l->ctx.scratch = l->scratch;
}

static gr_status run(void *user)
{
    gr_status           st = GR_OK;
    layer              *l = user;
    const gr_mixer_cost cost = l->def->cost(&l->spec, l->n);
    const gr_tensor     x = l->x[l->last = l->turn++ % SETS];
    gr_tape             tape;
    const double        t0 = gr_now();
    double              t1, t2;

    l->def->forward(&l->ctx, l->y, x, &tape);
    t1 = gr_now();
    l->def->backward(&l->ctx, l->dx, l->dy, x, &tape);
    t2 = gr_now();
    bench_time("fwd", t1 - t0, cost.forward * l->n, l->n);
    bench_time("fwd+bwd", t2 - t0, (cost.forward + cost.backward) * l->n, l->n);
    GR_TRY(gr_arena_reset(l->keep));
    GR_TRY(gr_arena_reset(l->scratch));
out:
    return st;
}

/* ---- the first tokens in fp64: docs/math.md 1.2 -------------------------------------------------------------------
 */

typedef struct oracle {
    double *w[PARAMS], *x; /* x [CHECKED, HIDDEN] */
} oracle;

static double *widen(gr_tensor t, int64_t n)
{
    double *y = bench_memory((uint64_t)n, sizeof *y);

    for (int64_t i = 0; i < n; i++) y[i] = (double)((float *)t.data)[i];
    return y;
}

/* y [CHECKED, out] = x [CHECKED, in] w^T */
static void linear(double *y, const double *x, const double *w, int64_t n_out, int64_t n_in)
{
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < n_out; o++)
        for (int64_t t = 0; t < CHECKED; t++) {
            double s = 0;

            for (int64_t i = 0; i < n_in; i++) s += x[t * n_in + i] * w[o * n_in + i];
            y[t * n_out + o] = s;
        }
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

/* Channel c of [x B C] after the convolution, at token t; p are the projections. */
static double convolved(const oracle *m, const double *p, int64_t c, int64_t t)
{
    double s = m->w[CONV_BIAS][c];

    for (int64_t j = 0; j < TAPS; j++)
        if (t - TAPS + 1 + j >= 0) s += m->w[CONV][c * TAPS + j] * p[(t - TAPS + 1 + j) * ROWS + ROW_X + c];
    return silu(s);
}

/* What head h gives the output projection, into n [CHECKED, HD]. */
static void head(double *n, const oracle *m, const double *p, int64_t h)
{
    double *S = bench_memory(D * D, sizeof *S), x[D], B[D], C[D];

    for (int64_t t = 0; t < CHECKED; t++) {
        const double dt = p[t * ROWS + ROW_DT + h] + m->w[DT_BIAS][h], delta = fmax(dt, 0) + log1p(exp(-fabs(dt)));
        const double fade = exp(-exp(m->w[A_LOG][h]) * delta);
        double      *out = n + t * HD + h * D, ms = 1e-5;

        for (int64_t i = 0; i < D; i++) {
            x[i] = convolved(m, p, h * D + i, t);
            B[i] = convolved(m, p, ROW_B - ROW_X + h * D + i, t);
            C[i] = convolved(m, p, ROW_C - ROW_X + h * D + i, t);
            out[i] = m->w[SKIP][h] * x[i];
        }
        for (int64_t i = 0; i < D; i++)
            for (int64_t j = 0; j < D; j++) {
                S[i * D + j] = fade * S[i * D + j] + delta * B[i] * x[j];
                out[j] += C[i] * S[i * D + j];
            }
        for (int64_t i = 0; i < D; i++) {
            out[i] *= silu(p[t * ROWS + h * D + i]);
            ms += out[i] * out[i] / D;
        }
        for (int64_t i = 0; i < D; i++) out[i] *= m->w[NORM][h * D + i] / sqrt(ms);
    }
    gr_free(&S);
}

static void forward64(double *y, const oracle *m)
{
    double *p = bench_memory((uint64_t)CHECKED * ROWS, sizeof *p), *n = bench_memory((uint64_t)CHECKED * HD, sizeof *n);

    linear(p, m->x, m->w[W_IN], ROWS, HIDDEN);
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t h = 0; h < HEADS; h++) head(n, m, p, h);
    linear(y, n, m->w[W_OUT], HIDDEN, HD);
    gr_free(&p);
    gr_free(&n);
}

/* <dy, y> with part i moved by `step` along signs. */
static double moved(const oracle *m, double *part, int64_t size, const double *sign, double step, const double *dy)
{
    double *y = bench_memory((uint64_t)CHECKED * HIDDEN, sizeof *y), value = 0;

    for (int64_t i = 0; i < size; i++) part[i] += step * sign[i];
    forward64(y, m);
    for (int64_t i = 0; i < size; i++) part[i] -= step * sign[i];
    for (int64_t i = 0; i < CHECKED * HIDDEN; i++) value += dy[i] * y[i];
    gr_free(&y);
    return value;
}

/* A gradient along random signs against a central difference; over its norm, which is what such a sum amounts to. */
static void check_gradient(const char *name, const oracle *m, double *part, gr_tensor grad, int64_t size,
                           const double *dy)
{
    const float *g = grad.data;
    double      *sign = bench_memory((uint64_t)size, sizeof *sign), along = 0, norm2 = 0, step = 1e-6, back;

    for (int64_t i = 0; i < size; i++) {
        sign[i] = bench_uniform(64, (uint64_t)i, -1, 1) < 0 ? -1 : 1;
        along += (double)g[i] * sign[i];
        norm2 += (double)g[i] * (double)g[i];
    }
    back = (moved(m, part, size, sign, step, dy) - moved(m, part, size, sign, -step, dy)) / (2 * step);
    bench_error(name, fabs(along - back) / sqrt(norm2), 1e-4);
    gr_free(&sign);
}

/* The layer is causal: its first tokens, and all gradients when dy is zero after them. */
static gr_status check(void *user)
{
    static const char *const name[PARAMS] = {"din_proj", "dconv1d", "dconv1d.bias", "ddt_bias",
                                             "dA_log",   "dD",      "dnorm",        "dout_proj"};
    gr_status                st = GR_OK;
    layer                   *l = user;
    const int64_t            n = (int64_t)CHECKED * HIDDEN;
    const gr_tensor          x = l->x[l->last];
    oracle                   m = {.x = widen(x, n)};
    double                  *y = bench_memory((uint64_t)n, sizeof *y), *dy = widen(l->dy, n), err = 0, top = 0;
    float                   *rest = (float *)l->dy.data + n;
    gr_tape                  tape;

    for (int i = 0; i < PARAMS; i++) {
        m.w[i] = widen(l->w[i], gr_count(l->w[i]));
        memset(l->dw[i].data, 0, (size_t)gr_count(l->dw[i]) * sizeof(float));
    }
    forward64(y, &m);
    for (int64_t i = 0; i < n; i++) {
        err = fmax(err, fabs(y[i] - (double)((float *)l->y.data)[i]));
        top = fmax(top, fabs(y[i]));
    }
    bench_error("y", err / top, 1e-5);

    memset(rest, 0, (size_t)(gr_count(l->dy) - n) * sizeof *rest);
    l->def->forward(&l->ctx, l->y, x, &tape);
    l->def->backward(&l->ctx, l->dx, l->dy, x, &tape);
    check_gradient("dx", &m, m.x, l->dx, n, dy);
    for (int i = 0; i < PARAMS; i++) check_gradient(name[i], &m, m.w[i], l->dw[i], gr_count(l->dw[i]), dy);
    bench_fill(l->dy.data, gr_count(l->dy), 24, -1.7f, 1.7f);
    GR_TRY(gr_arena_reset(l->keep));
    GR_TRY(gr_arena_reset(l->scratch));
out:
    for (int i = 0; i < PARAMS; i++) gr_free(&m.w[i]);
    gr_free(&m.x), gr_free(&y), gr_free(&dy);
    return st;
}

int main(int argc, char **argv)
{
    layer           l = {0};
    const gr_mixer *mixer = gr_mixer_find("mamba2");
    char            note[160];
    gr_status       st = GR_OK;

    if (argc != 2 || !mixer) return 2;
    GR_TRY(bench_backend(&l.op, note, sizeof note));
    GR_TRY(gr_arena_open(&l.keep, l.op, "keep"));
    GR_TRY(gr_arena_open(&l.scratch, l.op, "scratch"));
    bench_name("graft, own kernels and BLAS");
    l.def = mixer->def;
    l.ctx.core = gr_mixer_core_of(mixer, l.op);
    layer_open(&l, (int)strtol(argv[1], NULL, 10));
    st = bench_serve(&(bench){.run = run, .check = check, .user = &l});
out:
    return gr_exit_code(st);
}
