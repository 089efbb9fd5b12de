/** @file decoder.h  The first tokens of a Transformer in fp64, straight from the formulas (docs/math.md 5.1).
 *
 * A causal model gives its first tokens the same hidden states whatever follows, so a few tokens check a step of any
 * length. One document; plain loops.
 */
#ifndef GR_TESTS_BENCH_DECODER_H
#define GR_TESTS_BENCH_DECODER_H
#include "model/model.h"
#include "tests/bench/bench.h"

static inline double *decoder_doubles(int64_t n)
{
    return bench_memory((uint64_t)n, sizeof(double));
}

/* y [n, out] (+)= x [n, in] W^T */
static inline void decoder_linear(double *y, const double *x, const gr_param *w, int64_t n, bool add)
{
    const int64_t out = w->dim[0], in = w->dim[1];
    const float  *W = w->value.data;

#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < out; o++)
        for (int64_t t = 0; t < n; t++) {
            double s = 0;

            for (int64_t i = 0; i < in; i++) s += x[t * in + i] * (double)W[o * in + i];
            y[t * out + o] = add ? y[t * out + o] + s : s;
        }
}

static inline void decoder_norm(double *y, const double *x, const gr_param *w, int64_t rows, int64_t width, double eps)
{
    const float *g = w->value.data;

    for (int64_t r = 0; r < rows; r++) {
        double s = 0;

        for (int64_t i = 0; i < width; i++) s += x[r * width + i] * x[r * width + i];
        s = 1 / sqrt(s / (double)width + eps);
        for (int64_t i = 0; i < width; i++) y[r * width + i] = x[r * width + i] * s * (double)g[i];
    }
}

/* x [n, heads, D] */
static inline void decoder_rope(double *x, int64_t n, int heads, int D, double theta)
{
    for (int64_t t = 0; t < n; t++)
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < D / 2; i++) {
                const double angle = (double)t * pow(theta, -2.0 * i / D), c = cos(angle), s = sin(angle);
                double      *a = x + (t * heads + h) * D + i, *b = a + D / 2;
                const double u = *a, v = *b;

                *a = u * c - v * s;
                *b = v * c + u * s;
            }
}

/* o [n, heads, D] */
static inline void decoder_attention(double *o, const double *q, const double *k, const double *v, int64_t n, int heads,
                                     int kv_heads, int D)
{
    for (int h = 0; h < heads; h++)
        for (int64_t t = 0; t < n; t++) {
            const double *qt = q + (t * heads + h) * D;
            double       *ot = o + (t * heads + h) * D, sum = 0;

            memset(ot, 0, (size_t)D * sizeof *ot);
            for (int64_t u = 0; u <= t; u++) {
                const int64_t at = (u * kv_heads + h / (heads / kv_heads)) * D;
                double        p = 0;

                for (int d = 0; d < D; d++) p += qt[d] * k[at + d];
                p = exp(p / sqrt((double)D)); /* scores are small: no maximum to take out */
                sum += p;
                for (int d = 0; d < D; d++) ot[d] += p * v[at + d];
            }
            for (int d = 0; d < D; d++) ot[d] /= sum;
        }
}

/* A parameter of layer i by its name. */
static inline const gr_param *decoder_param(const gr_model *m, int layer, const char *name)
{
    char full[GR_NAME_MAX];

    snprintf(full, sizeof full, "model.layers.%d.%s", layer, name);
    return &m->params->p[gr_params_find(m->params, full)];
}

/* h [n, hidden]: the normed hidden states of the first n tokens. */
static inline void decoder_forward(double *h, const gr_model *m, const int32_t *id, int64_t n)
{
    const gr_model_spec *s = &m->spec;
    const int64_t hid = s->hidden, nq = (int64_t)s->n_head * s->head_dim, nk = (int64_t)s->n_kv_head * s->head_dim;
    double       *x = decoder_doubles(n * hid), *a = decoder_doubles(n * hid), *q = decoder_doubles(n * nq),
           *o = decoder_doubles(n * nq);
    double *k = decoder_doubles(n * nk), *v = decoder_doubles(n * nk), *g = decoder_doubles(n * s->ffn),
           *u = decoder_doubles(n * s->ffn);
    const float *table = m->params->p[m->at.embed].value.data;

    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < hid; i++) x[t * hid + i] = (double)table[id[t] * hid + i];
    for (int l = 0; l < s->n_layer; l++) {
        decoder_norm(a, x, decoder_param(m, l, "input_layernorm.weight"), n, hid, s->norm_eps);
        decoder_linear(q, a, decoder_param(m, l, "self_attn.q_proj.weight"), n, false);
        decoder_linear(k, a, decoder_param(m, l, "self_attn.k_proj.weight"), n, false);
        decoder_linear(v, a, decoder_param(m, l, "self_attn.v_proj.weight"), n, false);
        if (s->qk_norm) {
            decoder_norm(q, q, decoder_param(m, l, "self_attn.q_norm.weight"), n * s->n_head, s->head_dim, s->norm_eps);
            decoder_norm(k, k, decoder_param(m, l, "self_attn.k_norm.weight"), n * s->n_kv_head, s->head_dim,
                         s->norm_eps);
        }
        decoder_rope(q, n, s->n_head, s->head_dim, s->rope_theta);
        decoder_rope(k, n, s->n_kv_head, s->head_dim, s->rope_theta);
        decoder_attention(o, q, k, v, n, s->n_head, s->n_kv_head, s->head_dim);
        decoder_linear(x, o, decoder_param(m, l, "self_attn.o_proj.weight"), n, true);
        decoder_norm(a, x, decoder_param(m, l, "post_attention_layernorm.weight"), n, hid, s->norm_eps);
        decoder_linear(g, a, decoder_param(m, l, "mlp.gate_proj.weight"), n, false);
        decoder_linear(u, a, decoder_param(m, l, "mlp.up_proj.weight"), n, false);
        for (int64_t i = 0; i < n * s->ffn; i++) g[i] = g[i] / (1 + exp(-g[i])) * u[i];
        decoder_linear(x, g, decoder_param(m, l, "mlp.down_proj.weight"), n, true);
    }
    decoder_norm(h, x, &m->params->p[m->at.norm], n, hid, s->norm_eps);
    double *all[] = {x, a, q, o, k, v, g, u};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) gr_free(&all[i]);
}
#endif
