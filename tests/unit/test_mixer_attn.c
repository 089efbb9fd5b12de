/* kernels/cpu/mixer_attn.c: core and layer against plain softmax attention in fp64, whose own gradients are confirmed
 * by central differences; documents cannot see each other; the bits do not depend on the threads; decoding. */
/*TEST
np: 1
timeout: 60
*/
#include "kernels/arena.h"
#include "mixers/registry.h"
#include "tests/check.h"
#include <omp.h>
#include <string.h>

/* Rounding of fp32 products, of exp (3e-7) and of sums over the keys: measured 3e-7 at scores of order 1. Gradients
 * subtract numbers of equal size (dp - delta): measured 6e-7. Times four for machines that round elsewhere. */
static const double TOL = 1.2e-6, TOL_BACK = 2.4e-6;

static const gr_ops *ops;
static gr_arena     *scratch, *keep;
static uint64_t      seed = 1;

static float uniform(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(seed >> 40) / 8388608.0f - 1.0f;
}

static void *take(int64_t n, int64_t size)
{
    void *p = NULL;

    CHECK(gr_alloc(&p, (uint64_t)n, (uint64_t)size, "test") == GR_OK, "out of memory");
    return p;
}

static float *random_floats(int64_t n, float size)
{
    float *x = take(n, sizeof *x);

    for (int64_t i = 0; i < n; i++) x[i] = size * uniform();
    return x;
}

static float *nan_floats(int64_t n)
{
    float *x = take(n, sizeof *x);

    for (int64_t i = 0; i < n; i++) x[i] = NAN;
    return x;
}

static double *widen(const float *x, int64_t n)
{
    double *y = take(n, sizeof *y);

    for (int64_t i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}

/* What a kernel finds in its scratch memory must not matter. */
static void poison_scratch(void)
{
    const gr_mark mark = gr_arena_mark(scratch);
    gr_tensor     t = gr_take1(scratch, GR_F32, 4 << 20);

    if (t.data) memset(t.data, 0xff, (size_t)gr_count(t) * sizeof(float));
    gr_arena_release(scratch, mark);
}

/* ---- the oracle: plain softmax over the document's past, fp64 ------------------------------------- */

typedef struct shape {
    const char *name;
    int         n_doc, H, G, K, V;
    int32_t     doc[8];
    double      scale, size; /* of scores; of the entries of q, k, v, do: uniform in [-size, size] */
} shape;

static int64_t tokens(const shape *c)
{
    return c->doc[c->n_doc];
}

static double dot(const double *a, const double *b, int n)
{
    double sum = 0;

    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void axpy(double *y, double a, const double *x, int n)
{
    for (int i = 0; i < n; i++) y[i] += a * x[i];
}

/* d_o NULL: forward only. Gradients must come in as zeros. */
static void oracle(const shape *c, double *o, double *lse, double *dq, double *dk, double *dv, const double *q,
                   const double *k, const double *v, const double *d_o)
{
    double *p = take(tokens(c), sizeof *p);

    for (int d = 0; d < c->n_doc; d++)
        for (int h = 0; h < c->H; h++)
            for (int64_t i = c->doc[d]; i < c->doc[d + 1]; i++) {
                const int64_t qi = (i * c->H + h) * c->K, oi = (i * c->H + h) * c->V;
                const int     g = h / (c->H / c->G);
                double        top = -INFINITY, sum = 0, delta;

                for (int64_t j = c->doc[d]; j <= i; j++) {
                    p[j] = c->scale * dot(q + qi, k + (j * c->G + g) * c->K, c->K);
                    top = fmax(top, p[j]);
                }
                for (int64_t j = c->doc[d]; j <= i; j++) sum += p[j] = exp(p[j] - top);
                lse[i * c->H + h] = top + log(sum);
                memset(o + oi, 0, (size_t)c->V * sizeof *o);
                for (int64_t j = c->doc[d]; j <= i; j++) {
                    p[j] /= sum;
                    axpy(o + oi, p[j], v + (j * c->G + g) * c->V, c->V);
                }
                if (!d_o) continue;
                delta = dot(d_o + oi, o + oi, c->V);
                for (int64_t j = c->doc[d]; j <= i; j++) {
                    const int64_t kj = (j * c->G + g) * c->K, vj = (j * c->G + g) * c->V;
                    const double  ds = c->scale * p[j] * (dot(d_o + oi, v + vj, c->V) - delta);

                    axpy(dv + vj, p[j], d_o + oi, c->V);
                    axpy(dq + qi, ds, k + kj, c->K);
                    axpy(dk + kj, ds, q + qi, c->K);
                }
            }
    gr_free(&p);
}

/* ---- the core -------------------------------------------------------------------------------------- */

typedef struct run { /* inputs, and what the core and the oracle make of them */
    float  *q, *k, *v, *d_o, *o, *lse, *dq, *dk, *dv;
    double *q8, *k8, *v8, *d_o8, *o8, *lse8, *dq8, *dk8, *dv8;
    int64_t n_q, n_k, n_v, n_o, n_lse;
} run;

static void run_open(run *r, const shape *c)
{
    const int64_t N = tokens(c);

    r->n_q = N * c->H * c->K, r->n_k = N * c->G * c->K, r->n_v = N * c->G * c->V;
    r->n_o = N * c->H * c->V, r->n_lse = N * c->H;
    r->q = random_floats(r->n_q, (float)c->size), r->k = random_floats(r->n_k, (float)c->size);
    r->v = random_floats(r->n_v, 1), r->d_o = random_floats(r->n_o, 1);
    r->o = nan_floats(r->n_o), r->lse = nan_floats(r->n_lse);
    r->dq = nan_floats(r->n_q), r->dk = nan_floats(r->n_k), r->dv = nan_floats(r->n_v);
    r->q8 = widen(r->q, r->n_q), r->k8 = widen(r->k, r->n_k);
    r->v8 = widen(r->v, r->n_v), r->d_o8 = widen(r->d_o, r->n_o);
    r->o8 = take(r->n_o, 8), r->lse8 = take(r->n_lse, 8);
    r->dq8 = take(r->n_q, 8), r->dk8 = take(r->n_k, 8), r->dv8 = take(r->n_v, 8);
}

static void run_close(run *r)
{
    float  **f[] = {&r->q, &r->k, &r->v, &r->d_o, &r->o, &r->lse, &r->dq, &r->dk, &r->dv};
    double **d[] = {&r->q8, &r->k8, &r->v8, &r->d_o8, &r->o8, &r->lse8, &r->dq8, &r->dk8, &r->dv8};

    for (int i = 0; i < 9; i++) gr_free(f[i]), gr_free(d[i]);
}

static void run_core(run *r, const shape *c, int threads)
{
    const int64_t        N = tokens(c);
    const gr_seq         seq = {.n = N, .n_doc = c->n_doc, .doc = c->doc};
    const gr_mixer_core *core = gr_mixer_find("attn")->cpu;
    gr_core_args         a = {.seq = &seq, .n_head = c->H, .n_kv_head = c->G, .k_dim = c->K, .v_dim = c->V};

    a.scratch = scratch;
    a.scale = (float)c->scale;
    a.q = gr_view3(r->q, GR_F32, N, c->H, c->K);
    a.k = gr_view3(r->k, GR_F32, N, c->G, c->K);
    a.v = gr_view3(r->v, GR_F32, N, c->G, c->V);
    a.o = gr_view3(r->o, GR_F32, N, c->H, c->V);
    a.aux = gr_view2(r->lse, GR_F32, N, c->H);
    a.d_o = gr_view3(r->d_o, GR_F32, N, c->H, c->V);
    a.dq = gr_view3(r->dq, GR_F32, N, c->H, c->K);
    a.dk = gr_view3(r->dk, GR_F32, N, c->G, c->K);
    a.dv = gr_view3(r->dv, GR_F32, N, c->G, c->V);
    omp_set_num_threads(threads);
    poison_scratch();
    core->forward(&a, NULL);
    poison_scratch();
    core->backward(&a, NULL);
    omp_set_num_threads(2);
}

static void check_core(const shape *c, double tol, double tol_back)
{
    run r, again;

    run_open(&r, c);
    run_core(&r, c, 1);
    oracle(c, r.o8, r.lse8, r.dq8, r.dk8, r.dv8, r.q8, r.k8, r.v8, r.d_o8);
    CHECK_REL(r.o, r.o8, r.n_o, tol, c->name);
    CHECK_REL(r.lse, r.lse8, r.n_lse, tol, c->name);
    CHECK_REL(r.dq, r.dq8, r.n_q, tol_back, c->name);
    CHECK_REL(r.dk, r.dk8, r.n_k, tol_back, c->name);
    CHECK_REL(r.dv, r.dv8, r.n_v, tol_back, c->name);

    /* Any number of threads makes the same bits; with more of them than key heads, they take turns at dq. */
    again = r;
    again.o = nan_floats(r.n_o), again.lse = nan_floats(r.n_lse);
    again.dq = nan_floats(r.n_q), again.dk = nan_floats(r.n_k), again.dv = nan_floats(r.n_v);
    for (int threads = 2; threads <= 4; threads++) {
        run_core(&again, c, threads);
        CHECK(!memcmp(again.o, r.o, (size_t)r.n_o * 4), "%s: o, %d threads", c->name, threads);
        CHECK(!memcmp(again.lse, r.lse, (size_t)r.n_lse * 4), "%s: lse, %d threads", c->name, threads);
        CHECK(!memcmp(again.dq, r.dq, (size_t)r.n_q * 4), "%s: dq, %d threads", c->name, threads);
        CHECK(!memcmp(again.dk, r.dk, (size_t)r.n_k * 4), "%s: dk, %d threads", c->name, threads);
        CHECK(!memcmp(again.dv, r.dv, (size_t)r.n_v * 4), "%s: dv, %d threads", c->name, threads);
    }
    gr_free(&again.o), gr_free(&again.lse), gr_free(&again.dq), gr_free(&again.dk), gr_free(&again.dv);
    run_close(&r);
}

/* <do, o> along a random direction of x: the oracle's gradient dx against a central difference. Truncation (1e-5)^2,
 * cancellation 1e-16 / 1e-5: 1e-8 leaves a margin. */
static void check_direction(const shape *c, run *r, double *x, const double *dx, int64_t n, const char *name)
{
    const double h = 1e-5;
    double      *u = take(n, sizeof *u), value[2], want = 0;

    for (int64_t i = 0; i < n; i++) u[i] = (double)uniform(), want += u[i] * dx[i];
    for (int side = 0; side < 2; side++) {
        axpy(x, side ? -2 * h : h, u, (int)n);
        oracle(c, r->o8, r->lse8, NULL, NULL, NULL, r->q8, r->k8, r->v8, NULL);
        value[side] = dot(r->d_o8, r->o8, (int)r->n_o);
    }
    axpy(x, h, u, (int)n);
    CHECK(fabs((value[0] - value[1]) / (2 * h) - want) <= 1e-8 * (1 + fabs(want)),
          "oracle's d%s: %.12g, difference %.12g", name, want, (value[0] - value[1]) / (2 * h));
    gr_free(&u);
}

static void check_oracle(void)
{
    const shape c = {"oracle", 3, 4, 2, 6, 5, {0, 1, 9, 24}, 0.7, 1};
    run         r;

    run_open(&r, &c);
    oracle(&c, r.o8, r.lse8, r.dq8, r.dk8, r.dv8, r.q8, r.k8, r.v8, r.d_o8);
    for (int repeat = 0; repeat < 3; repeat++) {
        check_direction(&c, &r, r.q8, r.dq8, r.n_q, "q");
        check_direction(&c, &r, r.k8, r.dk8, r.n_k, "k");
        check_direction(&c, &r, r.v8, r.dv8, r.n_v, "v");
    }
    run_close(&r);
}

/* Change everything in one document, even to NaN: the others keep every bit. */
static void check_isolation(void)
{
    const shape c = {"isolation", 5, 4, 2, 24, 24, {0, 13, 14, 37, 161, 400}, 0.2, 1};
    run         r;

    run_open(&r, &c);
    run_core(&r, &c, 2);
    for (int d = 0; d < c.n_doc; d++) {
        run     s = r;
        float **in[] = {&s.q, &s.k, &s.v, &s.d_o}, **out[] = {&s.o, &s.lse, &s.dq, &s.dk, &s.dv};
        float  *before[] = {r.q, r.k, r.v, r.d_o}, *want[] = {r.o, r.lse, r.dq, r.dk, r.dv};
        int64_t n_in[] = {r.n_q, r.n_k, r.n_v, r.n_o}, n_out[] = {r.n_o, r.n_lse, r.n_q, r.n_k, r.n_v};

        for (int x = 0; x < 4; x++) {
            const int64_t row = n_in[x] / tokens(&c);

            *in[x] = take(n_in[x], 4);
            memcpy(*in[x], before[x], (size_t)n_in[x] * 4);
            for (int64_t i = c.doc[d] * row; i < c.doc[d + 1] * row; i++) (*in[x])[i] = d % 2 ? NAN : uniform();
        }
        for (int x = 0; x < 5; x++) *out[x] = nan_floats(n_out[x]);
        run_core(&s, &c, 2);
        for (int x = 0; x < 5; x++) {
            const int64_t row = n_out[x] / tokens(&c), first = c.doc[d] * row, end = c.doc[d + 1] * row;

            CHECK(!memcmp(*out[x], want[x], (size_t)first * 4) &&
                      !memcmp(*out[x] + end, want[x] + end, (size_t)(n_out[x] - end) * 4),
                  "output %d: document %d reaches another", x, d);
            CHECK(memcmp(*out[x] + first, want[x] + first, (size_t)(end - first) * 4),
                  "output %d: document %d is ignored", x, d);
        }
        for (int x = 0; x < 4; x++) gr_free(in[x]);
        for (int x = 0; x < 5; x++) gr_free(out[x]);
    }
    run_close(&r);
}

/* ---- the layer ------------------------------------------------------------------------------------- */

enum { HID = 10, LAYER_H = 4, LAYER_G = 2, LAYER_D = 6, LAYER_N = 13 };

static const shape layer_shape = {
    "layer", 3, LAYER_H, LAYER_G, LAYER_D, LAYER_D, {0, 1, 6, LAYER_N}, 0.40824829046386302 /* 6^-1/2 */, 1};

/* y [rows, out] = x W^T */
static void linear8(double *y, const double *x, const double *w, int64_t rows, int out, int in)
{
    for (int64_t i = 0; i < rows; i++)
        for (int o = 0; o < out; o++) y[i * out + o] = dot(x + i * in, w + (int64_t)o * in, in);
}

/* Per-head norm (w NULL: none), then rotation, in place. */
static void norm_rope8(double *x, const double *w, int heads, const shape *c, const double *cs, double eps)
{
    const int D = c->K, half = D / 2;

    for (int64_t r = 0; r < tokens(c) * heads; r++) {
        const double *cos_t = cs + r / heads * D, *sin_t = cos_t + half;
        const double  rstd = 1 / sqrt(dot(x + r * D, x + r * D, D) / D + eps);

        for (int i = 0; w && i < D; i++) x[r * D + i] *= rstd * w[i];
        for (int i = 0; i < half; i++) {
            const double a = x[r * D + i], b = x[r * D + i + half];

            x[r * D + i] = a * cos_t[i] - b * sin_t[i];
            x[r * D + i + half] = b * cos_t[i] + a * sin_t[i];
        }
    }
}

static double *layer8_y; /* [N, HID] of the last layer8 */

/* sum of dy * layer(x); w in the order of params(). */
static double layer8(const shape *c, int hid, double *const *w, bool qk_norm, const double *x, const double *cs,
                     const double *dy)
{
    const int64_t N = tokens(c);
    double       *q = take(N * c->H * c->K, 8), *k = take(N * c->G * c->K, 8), *v = take(N * c->G * c->K, 8), sum;
    double       *o = take(N * c->H * c->K, 8), *lse = take(N * c->H, 8);

    linear8(q, x, w[0], N, c->H * c->K, hid);
    linear8(k, x, w[1], N, c->G * c->K, hid);
    linear8(v, x, w[2], N, c->G * c->K, hid);
    norm_rope8(q, qk_norm ? w[4] : NULL, c->H, c, cs, 1e-6);
    norm_rope8(k, qk_norm ? w[5] : NULL, c->G, c, cs, 1e-6);
    oracle(c, o, lse, NULL, NULL, NULL, q, k, v, NULL);
    linear8(layer8_y, o, w[3], N, hid, c->H * c->K);
    sum = dot(layer8_y, dy, (int)(N * hid));
    gr_free(&q), gr_free(&k), gr_free(&v), gr_free(&o), gr_free(&lse);
    return sum;
}

/* What a layer needs around it, for any shape. */
typedef struct bench {
    gr_mixer_spec spec;
    gr_mixer_ctx  ctx;
    gr_seq        seq;
    gr_param_spec param[GR_MIXER_PARAMS];
    int           n_param;
    gr_tensor     w[GR_MIXER_PARAMS], dw[GR_MIXER_PARAMS];
    double       *w8[GR_MIXER_PARAMS], *cs8;
    float        *cs;
    int32_t      *pos;
} bench;

static void bench_open(bench *b, const shape *c, int hid, bool qk_norm)
{
    const gr_mixer *m = gr_mixer_find("attn");
    const int64_t   N = tokens(c);
    float           inv_freq[64];

    memset(b, 0, sizeof *b);
    b->spec = (gr_mixer_spec){.hidden = hid, .n_head = c->H, .n_kv_head = c->G, .head_dim = c->K};
    b->spec.qk_norm = qk_norm;
    b->spec.norm_eps = 1e-6f;
    b->pos = take(N, sizeof *b->pos);
    for (int d = 0; d < c->n_doc; d++)
        for (int32_t t = c->doc[d]; t < c->doc[d + 1]; t++) b->pos[t] = t - c->doc[d];
    b->seq = (gr_seq){.n = N, .n_doc = c->n_doc, .doc = c->doc, .pos = gr_view1(b->pos, GR_I32, N)};
    b->cs = take(N * c->K, 4);
    for (int i = 0; i < c->K / 2; i++) inv_freq[i] = powf(100.0f, -2.0f * (float)i / (float)c->K);
    b->ctx = (gr_mixer_ctx){.op = ops, .core = m->cpu, .spec = &b->spec, .seq = &b->seq, .w = b->w, .dw = b->dw};
    b->ctx.keep = keep;
    b->ctx.scratch = scratch;
    b->ctx.rope_cs = gr_view2(b->cs, GR_F32, N, c->K);
    ops->rope_table(b->ctx.rope_cs, b->seq.pos, gr_view1(inv_freq, GR_F32, c->K / 2), NULL);
    b->cs8 = widen(b->cs, N * c->K);
    b->n_param = m->def->params(&b->spec, b->param);
    for (int i = 0; i < b->n_param; i++) {
        const int64_t *dim = b->param[i].dim;

        b->w[i] = gr_view2(random_floats(dim[0] * dim[1], 1), GR_F32, dim[0], dim[1]);
        b->dw[i] = gr_view2(take(dim[0] * dim[1], 4), GR_F32, dim[0], dim[1]);
        b->w[i].rank = b->dw[i].rank = b->param[i].rank;
        b->w8[i] = widen(b->w[i].data, dim[0] * dim[1]);
    }
}

static void bench_close(bench *b)
{
    for (int i = 0; i < b->n_param; i++) gr_free(&b->w[i].data), gr_free(&b->dw[i].data), gr_free(&b->w8[i]);
    gr_free(&b->cs), gr_free(&b->cs8), gr_free(&b->pos);
}

/* Element by element: the oracle's loss moved by h, against what backward says. */
static void difference(double *want, double *x, int64_t n, const bench *b, const double *x8, const double *dy8)
{
    const double h = 1e-5;

    for (int64_t i = 0; i < n; i++) {
        const double at = x[i];
        double       up, down;

        x[i] = at + h, up = layer8(&layer_shape, HID, b->w8, b->spec.qk_norm, x8, b->cs8, dy8);
        x[i] = at - h, down = layer8(&layer_shape, HID, b->w8, b->spec.qk_norm, x8, b->cs8, dy8);
        x[i] = at;
        want[i] = (up - down) / (2 * h);
    }
}

static void check_layer(bool qk_norm)
{
    const gr_mixer_def *def = gr_mixer_find("attn")->def;
    const int64_t       n = LAYER_N * HID;
    float              *x = random_floats(n, 1), *dy = random_floats(n, 1);
    float              *y = nan_floats(n), *y2 = nan_floats(n), *dx = nan_floats(n);
    double             *x8 = widen(x, n), *dy8 = widen(dy, n), *want = take(1000, 8);
    const gr_tensor     X = gr_view2(x, GR_F32, LAYER_N, HID), Y = gr_view2(y, GR_F32, LAYER_N, HID);
    const gr_tensor     DY = gr_view2(dy, GR_F32, LAYER_N, HID), DX = gr_view2(dx, GR_F32, LAYER_N, HID);
    bench               b;
    gr_tape             tape = {0};

    layer8_y = take(n, 8);
    bench_open(&b, &layer_shape, HID, qk_norm);
    CHECK(b.n_param == (qk_norm ? 6 : 4), "%d parameters", b.n_param);
    poison_scratch();
    def->forward(&b.ctx, Y, X, &tape);
    poison_scratch();
    def->forward(&b.ctx, gr_view2(y2, GR_F32, LAYER_N, HID), X, NULL);
    CHECK(!memcmp(y, y2, (size_t)n * 4), "inference differs from training");
    for (int i = 0; i < b.n_param; i++) /* += : start from something */
        for (int64_t j = 0; j < gr_count(b.dw[i]); j++) ((float *)b.dw[i].data)[j] = 1;
    poison_scratch();
    def->backward(&b.ctx, DX, DY, X, &tape);

    layer8(&layer_shape, HID, b.w8, qk_norm, x8, b.cs8, dy8);
    CHECK_REL(y, layer8_y, n, TOL, "layer y");
    for (int i = 0; i < b.n_param; i++) {
        difference(want, b.w8[i], gr_count(b.dw[i]), &b, x8, dy8);
        for (int64_t j = 0; j < gr_count(b.dw[i]); j++) want[j] += 1;
        CHECK_REL((float *)b.dw[i].data, want, gr_count(b.dw[i]), TOL_BACK, b.param[i].name);
    }
    difference(want, x8, n, &b, x8, dy8);
    CHECK_REL(dx, want, n, TOL_BACK, "layer dx");

    /* Frozen parameters and an unwanted dx: the rest keeps its bits. */
    for (int frozen = 0; frozen < b.n_param; frozen++) {
        const gr_tensor held = b.dw[frozen];
        float          *before[GR_MIXER_PARAMS], *dx2 = nan_floats(n);

        b.dw[frozen] = gr_none();
        for (int i = 0; i < b.n_param; i++) {
            before[i] = i == frozen ? NULL : b.dw[i].data;
            if (before[i]) b.dw[i].data = take(gr_count(b.dw[i]), 4);
            for (int64_t j = 0; before[i] && j < gr_count(b.dw[i]); j++) ((float *)b.dw[i].data)[j] = 1;
        }
        def->backward(&b.ctx, frozen % 2 ? gr_none() : gr_view2(dx2, GR_F32, LAYER_N, HID), DY, X, &tape);
        for (int i = 0; i < b.n_param; i++)
            if (before[i]) {
                CHECK(!memcmp(b.dw[i].data, before[i], (size_t)gr_count(b.dw[i]) * 4),
                      "%s frozen changes the gradient of %s", b.param[frozen].name, b.param[i].name);
                gr_free(&b.dw[i].data);
                b.dw[i].data = before[i];
            }
        if (frozen % 2 == 0) CHECK(!memcmp(dx, dx2, (size_t)n * 4), "%s frozen changes dx", b.param[frozen].name);
        gr_free(&dx2);
        b.dw[frozen] = held;
    }
    bench_close(&b);
    CHECK(gr_arena_reset(keep) == GR_OK && gr_arena_reset(scratch) == GR_OK, "arena");
    gr_free(&x), gr_free(&dy), gr_free(&y), gr_free(&dx), gr_free(&y2), gr_free(&x8), gr_free(&dy8), gr_free(&want);
    gr_free(&layer8_y);
}

/* Token by token with a cache equals all at once: over 700 tokens, the cache is read in several pieces. */
static void check_decode(bool qk_norm, int G)
{
    const gr_mixer_def *def = gr_mixer_find("attn")->def;
    const shape         c = {"decode", 1, 6, G, 16, 16, {0, 700}, 0.25, 1};
    const int           hid = 20;
    const int64_t       N = tokens(&c), n = N * hid;
    float              *x = random_floats(n, 0.5f), *y = nan_floats(n), *y2 = nan_floats(n);
    double             *y8;
    gr_mixer_state      state = {0};
    bench               b;

    bench_open(&b, &c, hid, qk_norm);
    def->forward(&b.ctx, gr_view2(y, GR_F32, N, hid), gr_view2(x, GR_F32, N, hid), NULL);
    CHECK(def->state_shape(&b.spec, N, &state) == 2, "two caches");
    CHECK(2 * (double)gr_count(state.t[0]) * 4 == def->cost(&b.spec, N).state_bytes, "state_bytes");
    state.t[0].data = nan_floats(gr_count(state.t[0]));
    state.t[1].data = nan_floats(gr_count(state.t[1]));
    for (int64_t t = 0; t < N; t++) {
        gr_mixer_ctx one = b.ctx;

        one.rope_cs = gr_rows(b.ctx.rope_cs, t, 1);
        one.keep = NULL;
        def->step(&one, gr_view2(y2 + t * hid, GR_F32, 1, hid), gr_view2(x + t * hid, GR_F32, 1, hid), &state, t);
    }
    y8 = widen(y, n);
    CHECK_REL(y2, y8, n, TOL, "decode");
    gr_free(&state.t[0].data), gr_free(&state.t[1].data);
    bench_close(&b);
    gr_free(&x), gr_free(&y), gr_free(&y2), gr_free(&y8);
}

static void check_definition(void)
{
    const gr_mixer_def *def = gr_mixer_find("attn")->def;
    const gr_mixer_spec spec = {.hidden = 3, .n_head = 2, .n_kv_head = 1, .head_dim = 2, .qk_norm = true};
    const gr_mixer_cost cost = def->cost(&spec, 9);
    gr_param_spec       p[GR_MIXER_PARAMS];
    float               from[6][12], to[6][12] = {{0}};
    float              *w[6];
    const float        *attn[6];

    CHECK(gr_mixer_find_symbol("*") == gr_mixer_find("attn") && !strcmp(def->prefix, "self_attn"), "names");
    CHECK(def->params(&spec, p) == 6, "parameters");
    for (int i = 0; i < 6; i++) {
        w[i] = to[i], attn[i] = from[i];
        for (int j = 0; j < 12; j++) from[i][j] = uniform();
    }
    def->from_attention(&spec, w, attn);
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 12; j++)
            CHECK(to[i][j] == (j < p[i].dim[0] * p[i].dim[1] ? from[i][j] : 0.0f), "%s [%d]", p[i].name, j);

    CHECK(cost.core_forward == 4 * 2 * 2 * 5 && cost.core_backward == 2.5 * cost.core_forward, "cost of the core");
    CHECK(cost.forward - cost.core_forward == 2 * (2 * 12 + 2 * 6), "cost of the projections");
    CHECK(cost.backward - cost.core_backward == 2 * (cost.forward - cost.core_forward), "cost of their backward");
}

int main(void)
{
    static const shape shapes[] = {
        {"one token", 1, 1, 1, 16, 16, {0, 1}, 0.25, 1},
        {"packed D 64", 6, 4, 4, 64, 64, {0, 13, 14, 37, 61, 200, 201}, 0.125, 1},
        {"packed D 16, group 2", 5, 4, 2, 16, 16, {0, 13, 14, 37, 61, 200}, 0.25, 1},
        {"packed D 128, group 3", 5, 6, 2, 128, 128, {0, 13, 14, 37, 61, 200}, 0.088, 1},
        {"packed D 24, group 4", 5, 4, 1, 24, 24, {0, 13, 14, 37, 61, 200}, 0.204, 1},
        {"K 40, V 24", 2, 2, 1, 40, 24, {0, 100, 391}, 0.158, 1},
        {"D 8, group 100", 2, 100, 1, 8, 8, {0, 27, 60}, 0.35, 1},
        {"a tile and a key", 1, 2, 2, 64, 64, {0, 257}, 0.125, 1},
        {"long", 3, 2, 1, 16, 16, {0, 333, 700, 1500}, 0.25, 1},
        {"long, one document, D 128", 1, 1, 1, 128, 128, {0, 777}, 0.088, 1},
    };
    /* Scores reach +-250, of which fp32 keeps 2^-17 = 8e-6, a few times over in their sums: so good is p. */
    static const shape huge = {"huge scores", 2, 2, 1, 64, 64, {0, 150, 420}, 1.0, 5};
    static char        note[256];

    CHECK(gr_backend_open("cpu", 2, &ops, note, sizeof note) == GR_OK, "backend");
    CHECK(gr_arena_open(&scratch, ops, "scratch") == GR_OK && gr_arena_open(&keep, ops, "tape") == GR_OK, "arena");
    check_oracle();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_core(&shapes[i], TOL, TOL_BACK);
    check_core(&huge, 1e-4, 1e-4);
    check_isolation();
    check_layer(false);
    check_layer(true);
    check_decode(false, 6);
    check_decode(true, 2);
    check_definition();
    gr_arena_close(&keep);
    gr_arena_close(&scratch);
    return check_result();
}
