/** @file keys.h  What the tests of windowed attention share: softmax by its definition, and a layer to try.
 *
 * The oracle is one softmax in fp64 over sets of keys, each with an explicit rule who sees whom. Its gradient is a
 * formula here, because core tests need many; it is confirmed by central differences (check_keys_oracle). Layers are
 * held to central differences themselves.
 */
#ifndef GR_TESTS_UNIT_KEYS_H
#define GR_TESTS_UNIT_KEYS_H
#include "kernels/arena.h"
#include "mixers/registry.h"
#include "tests/unit/oracle.h"

static const gr_ops *ops;
static gr_arena     *scratch, *keep;

/** Packed documents and heads. */
typedef struct shape {
    const char *name;
    int         n_doc, H, G, K, V;
    int32_t     doc[8];
    double      scale;
} shape;

static inline int64_t tokens(const shape *c)
{
    return c->doc[c->n_doc];
}

/** Query i sees key j <= i of its document when near <= i - j < far, or when j is one of the first `sink`. */
typedef struct keyset {
    int     near, far, sink;
    double *q, *k, *v, *dq, *dk, *dv;
} keyset;

static inline bool sees(const keyset *s, int64_t doc, int64_t i, int64_t j)
{
    return j <= i && ((i - j >= s->near && i - j < s->far) || j - doc < s->sink);
}

/** o [N, H, V] and lse [N, H] of one softmax over all sets; with d_o also their gradients, which come in as zeros. */
static inline void keys_oracle(const shape *c, const keyset *set, int n_set, double *o, double *lse, const double *d_o)
{
    double *p = take(n_set * tokens(c), sizeof *p);

    for (int d = 0; d < c->n_doc; d++)
        for (int h = 0; h < c->H; h++)
            for (int64_t i = c->doc[d]; i < c->doc[d + 1]; i++) {
                const int64_t g = h / (c->H / c->G), qi = (i * c->H + h) * c->K, oi = (i * c->H + h) * c->V;
                double        top = -INFINITY, sum = 0, delta;

                for (int pass = 0; pass < 3; pass++) { /* scores, sum, output */
                    for (int s = 0; s < n_set; s++)
                        for (int64_t j = c->doc[d]; j <= i; j++) {
                            double *pj = p + s * tokens(c) + j;

                            if (!sees(&set[s], c->doc[d], i, j)) continue;
                            if (pass == 0) {
                                *pj = c->scale * sum_product(set[s].q + qi, set[s].k + (j * c->G + g) * c->K, c->K);
                                top = fmax(top, *pj);
                            } else if (pass == 1) {
                                sum += *pj = exp(*pj - top);
                            } else {
                                *pj /= sum;
                                for (int x = 0; x < c->V; x++) o[oi + x] += *pj * set[s].v[(j * c->G + g) * c->V + x];
                            }
                        }
                    if (pass == 1)
                        for (int x = 0; x < c->V; x++) o[oi + x] = 0;
                }
                lse[i * c->H + h] = sum > 0 ? top + log(sum) : -INFINITY;
                if (!d_o) continue;
                delta = sum_product(d_o + oi, o + oi, c->V);
                for (int s = 0; s < n_set; s++)
                    for (int64_t j = c->doc[d]; j <= i; j++) {
                        const int64_t kj = (j * c->G + g) * c->K, vj = (j * c->G + g) * c->V;
                        const double  pj = p[s * tokens(c) + j];
                        double        ds;

                        if (!sees(&set[s], c->doc[d], i, j)) continue;
                        ds = c->scale * pj * (sum_product(d_o + oi, set[s].v + vj, c->V) - delta);
                        for (int x = 0; x < c->V; x++) set[s].dv[vj + x] += pj * d_o[oi + x];
                        for (int x = 0; x < c->K; x++) set[s].dq[qi + x] += ds * set[s].k[kj + x];
                        for (int x = 0; x < c->K; x++) set[s].dk[kj + x] += ds * set[s].q[qi + x];
                    }
            }
}

/* ---- layers in fp64 -------------------------------------------------------------------------------- */

/** y [rows, out] = x W^T */
static inline double *linear8(const double *x, const double *w, int64_t rows, int out, int in)
{
    double *y = take(rows * out, sizeof *y);

    for (int64_t i = 0; i < rows; i++)
        for (int o = 0; o < out; o++) y[i * out + o] = sum_product(x + i * in, w + (int64_t)o * in, in);
    return y;
}

/** rope(norm(x W^T)); norm NULL: none. cs [N, D] as gr_ops.rope_table makes it. */
static inline double *heads8(const double *x, const double *w, const double *norm, int64_t N, int heads, int D, int hid,
                             const double *cs)
{
    double *y = linear8(x, w, N, heads * D, hid);

    for (int64_t r = 0; r < N * heads; r++) {
        const double *cos_t = cs + r / heads * D, *sin_t = cos_t + D / 2;
        double       *z = y + r * D;
        const double  rstd = 1 / sqrt(sum_product(z, z, D) / D + 1e-6);

        for (int i = 0; norm && i < D; i++) z[i] *= rstd * norm[i];
        for (int i = 0; i < D / 2; i++) {
            const double a = z[i], b = z[i + D / 2];

            z[i] = a * cos_t[i] - b * sin_t[i];
            z[i + D / 2] = b * cos_t[i] + a * sin_t[i];
        }
    }
    return y;
}

/** A layer with everything around it, in fp32 and widened. */
typedef struct layer {
    const gr_mixer_def *def;
    const shape        *c;
    gr_mixer_spec       spec;
    gr_mixer_ctx        ctx;
    gr_seq              seq;
    gr_param_spec       param[GR_MIXER_PARAMS];
    int                 n_param;
    gr_tensor           w[GR_MIXER_PARAMS], dw[GR_MIXER_PARAMS];
    double             *w8[GR_MIXER_PARAMS], *cs8, *x8, *dy8, *y8; /* y8: what the oracle made last */
    float              *x, *dy;
} layer;

static inline gr_tensor rows_of(const layer *l, float *x)
{
    return mat(x, tokens(l->c), l->spec.hidden);
}

/** spec: hidden, the type's options, and what its inner type wants; the heads are c's. */
static inline void layer_open(layer *l, const shape *c, const gr_mixer_def *def, const gr_mixer_core *core,
                              const gr_mixer_core *inner, gr_mixer_spec spec)
{
    const int64_t N = tokens(c), n = N * spec.hidden;
    int32_t      *pos = take(N, sizeof *pos);
    float         inv_freq[64];

    spec.n_head = c->H, spec.n_kv_head = c->G, spec.head_dim = c->K, spec.norm_eps = 1e-6f;
    *l = (layer){.def = def, .c = c, .spec = spec};
    for (int d = 0; d < c->n_doc; d++)
        for (int32_t t = c->doc[d]; t < c->doc[d + 1]; t++) pos[t] = t - c->doc[d];
    l->seq = (gr_seq){.n = N, .n_doc = c->n_doc, .doc = c->doc, .pos = ints(pos, N)};
    l->ctx = (gr_mixer_ctx){.op = ops, .core = core, .inner = inner, .keep = keep, .scratch = scratch};
    l->ctx.rope_cs = mat(take(N * c->K, 4), N, c->K);
    for (int i = 0; i < c->K / 2; i++) inv_freq[i] = powf(100.0f, -2.0f * (float)i / (float)c->K);
    ops->rope_table(l->ctx.rope_cs, l->seq.pos, vec1(inv_freq, c->K / 2), NULL);
    l->cs8 = widen(l->ctx.rope_cs.data, N * c->K);
    l->x = uniform(n, 7, -1, 1), l->dy = uniform(n, 8, -1, 1);
    l->x8 = widen(l->x, n), l->dy8 = widen(l->dy, n);
    l->n_param = def->params(&l->spec, l->param);
    for (int i = 0; i < l->n_param; i++) {
        const gr_param_spec *p = &l->param[i];
        const int64_t        size = p->dim[0] * p->dim[1] * p->dim[2];

        l->w[i] = gr_view3(uniform(size, 100 + (uint64_t)i, -0.7, 0.7), GR_F32, p->dim[0], p->dim[1], p->dim[2]);
        l->w[i].rank = p->rank;
        l->dw[i] = l->w[i];
        l->dw[i].data = take(size, 4);
        l->w8[i] = widen(l->w[i].data, size);
    }
}

/* Pointers into the struct itself: set where it lies now. */
static inline const gr_mixer_ctx *layer_ctx(layer *l)
{
    l->ctx.spec = &l->spec, l->ctx.seq = &l->seq, l->ctx.w = l->w, l->ctx.dw = l->dw;
    return &l->ctx;
}

static inline void layer_reset(void)
{
    CHECK(gr_arena_reset(keep) == GR_OK && gr_arena_reset(scratch) == GR_OK, "arena");
}

/** One pass; dw start at 1 each. dx may be NULL. */
static inline void layer_run(layer *l, float *y, float *dx)
{
    const gr_mixer_ctx *c = layer_ctx(l);
    gr_tape             tape = {0};

    for (int i = 0; i < l->n_param; i++)
        for (int64_t j = 0; l->dw[i].data && j < gr_count(l->dw[i]); j++) ((float *)l->dw[i].data)[j] = 1;
    l->def->forward(c, rows_of(l, y), rows_of(l, l->x), &tape);
    l->def->backward(c, dx ? rows_of(l, dx) : gr_none(), rows_of(l, l->dy), rows_of(l, l->x), &tape);
    layer_reset();
}

/** Forward and every gradient against f, which returns sum dy y in fp64 and fills y8. Each parameter frozen in turn
 * leaves the bits of all other gradients. */
static inline void layer_check(layer *l, double (*f)(const void *), double tol, double tol_back)
{
    const int64_t n = tokens(l->c) * l->spec.hidden;
    float        *y = poisoned(n), *y2 = poisoned(n), *dx = poisoned(n), *dx2 = poisoned(n);
    float        *first[GR_MIXER_PARAMS];

    f(l);
    layer_run(l, y, dx);
    CHECK_REL(y, l->y8, n, tol, l->c->name);
    l->def->forward(layer_ctx(l), rows_of(l, y2), rows_of(l, l->x), NULL);
    layer_reset();
    CHECK(!memcmp(y, y2, (size_t)n * 4), "%s: inference differs from training", l->c->name);
    for (int i = 0; i < l->n_param; i++) {
        const int64_t size = gr_count(l->w[i]);
        float        *one = uniform(size, 1, 1, 1);

        first[i] = take(size, 4);
        memcpy(first[i], l->dw[i].data, (size_t)size * 4);
        check_grad(l->param[i].name, first[i], one, l->w8[i], size, f, l, tol_back);
    }
    check_grad("x", dx, NULL, l->x8, n, f, l, tol_back);

    for (int frozen = 0; frozen < l->n_param; frozen++) {
        const gr_tensor held = l->dw[frozen];

        l->dw[frozen] = gr_none();
        layer_run(l, y, frozen % 2 ? NULL : dx2);
        l->dw[frozen] = held;
        for (int i = 0; i < l->n_param; i++)
            CHECK(i == frozen || !memcmp(l->dw[i].data, first[i], (size_t)gr_count(l->w[i]) * 4),
                  "%s frozen changes the gradient of %s", l->param[frozen].name, l->param[i].name);
        CHECK(frozen % 2 || !memcmp(dx, dx2, (size_t)n * 4), "%s frozen changes dx", l->param[frozen].name);
    }
}

/** Token by token against forward; `bytes` of state, of which the first n_cache tensors begin as NaN, since nobody may
 * look at what was not written, and the others, an inner recurrence's, as zero. One document. */
static inline void layer_decode(layer *l, double tol, double bytes, int n_cache)
{
    const int64_t  N = tokens(l->c), hid = l->spec.hidden;
    float         *y = poisoned(N * hid), *y2 = poisoned(N * hid);
    double         used = 0;
    gr_mixer_state state = {0};
    gr_mixer_ctx   one;

    l->def->forward(layer_ctx(l), rows_of(l, y), rows_of(l, l->x), NULL);
    layer_reset();
    for (int i = 0, n = l->def->state_shape(&l->spec, N, &state); i < n; i++) {
        used += 4 * (double)gr_count(state.t[i]);
        state.t[i].data = take(gr_count(state.t[i]) + 1, 4);
        if (i < n_cache) poison(state.t[i].data, gr_count(state.t[i]));
    }
    CHECK(used == bytes && l->def->cost(&l->spec, N).state_bytes == bytes, "%s: %g bytes of state, %g by cost, not %g",
          l->c->name, used, l->def->cost(&l->spec, N).state_bytes, bytes);
    one = *layer_ctx(l);
    one.keep = NULL, one.seq = NULL, one.dw = NULL;
    for (int64_t t = 0; t < N; t++) {
        one.rope_cs = gr_rows(l->ctx.rope_cs, t, 1);
        l->def->step(&one, mat(y2 + t * hid, 1, hid), mat(l->x + t * hid, 1, hid), &state, t);
    }
    layer_reset();
    CHECK_REL(y2, widen(y, N * hid), N * hid, tol, l->c->name);
}

static inline void keys_open(void)
{
    static char note[256];

    CHECK(gr_backend_open("cpu", 2, &ops, note, sizeof note) == GR_OK, "backend");
    CHECK(gr_arena_open(&scratch, ops, "scratch") == GR_OK && gr_arena_open(&keep, ops, "tape") == GR_OK, "arena");
}

static inline int keys_close(void)
{
    gr_arena_close(&keep);
    gr_arena_close(&scratch);
    take_back();
    return check_result();
}
#endif
