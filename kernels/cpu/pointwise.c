/* Operations of one element each: no element sees another, so any split over threads gives the same bits. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

void gr_cpu_add(gr_tensor y_, gr_tensor x_, gr_stream *s)
{
    const int64_t n = gr_count(y_);
    float        *y = gr_f(y_);
    const float  *x = gr_f(x_);

    (void)s;
#pragma omp parallel for simd schedule(static) if (parallel : n > GR_SERIAL)
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

void gr_cpu_scale(gr_tensor x_, float a, gr_stream *s)
{
    const int64_t n = gr_count(x_);
    float        *x = gr_f(x_);

    (void)s;
#pragma omp parallel for simd schedule(static) if (parallel : n > GR_SERIAL)
    for (int64_t i = 0; i < n; i++) x[i] *= a;
}

void gr_cpu_sumsq(gr_tensor sum, gr_tensor x_, gr_stream *s)
{
    enum { BLOCK = 8192, FLIGHT = 1024 };
    const int64_t n = gr_count(x_), n_block = (n + BLOCK - 1) / BLOCK;
    const float  *x = gr_f(x_);
    double        part[FLIGHT], total = 0;

    (void)s;
    for (int64_t b0 = 0; b0 < n_block; b0 += FLIGHT) {
        const int64_t b1 = b0 + FLIGHT < n_block ? b0 + FLIGHT : n_block;

#pragma omp parallel for schedule(static) if (n > GR_SERIAL)
        for (int64_t b = b0; b < b1; b++) {
            const int64_t end = (b + 1) * BLOCK < n ? (b + 1) * BLOCK : n;
            double        t = 0;

#pragma omp simd reduction(+ : t)
            for (int64_t i = b * BLOCK; i < end; i++) t += (double)x[i] * x[i];
            part[b - b0] = t;
        }
        for (int64_t b = b0; b < b1; b++) total += part[b - b0];
    }
    *(double *)sum.data += total;
}

/* y = scale sigmoid(x): docs/math.md 0.2. */
void gr_cpu_sigmoid(gr_tensor y_, gr_tensor x_, float scale, gr_stream *s)
{
    const int64_t n = gr_count(y_);
    float        *y = gr_f(y_);
    const float  *x = gr_f(x_);

    (void)s;
#pragma omp parallel for simd schedule(static) if (parallel : n > GR_SERIAL)
    for (int64_t i = 0; i < n; i++) y[i] = scale * gr_sigmoidf(x[i]);
}

void gr_cpu_sigmoid_back(gr_tensor dx_, gr_tensor dy_, gr_tensor y_, float scale, gr_stream *s)
{
    const int64_t n = gr_count(y_);
    float        *dx = gr_f(dx_);
    const float  *dy = gr_f(dy_), *y = gr_f(y_), inv = 1.0f / scale;

    (void)s;
#pragma omp parallel for simd schedule(static) if (parallel : n > GR_SERIAL)
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * y[i] * (1.0f - y[i] * inv);
}

void gr_cpu_swiglu(gr_tensor h_, gr_tensor g_, gr_tensor u_, gr_stream *s)
{
    const int64_t n = gr_count(h_);
    float        *h = gr_f(h_);
    const float  *g = gr_f(g_), *u = gr_f(u_);

    (void)s;
#pragma omp parallel for simd schedule(static) if (parallel : n > GR_SERIAL)
    for (int64_t i = 0; i < n; i++) h[i] = gr_siluf(g[i]) * u[i];
}

void gr_cpu_swiglu_back(gr_tensor dg_, gr_tensor du_, gr_tensor dh_, gr_tensor g_, gr_tensor u_, gr_stream *s)
{
    const int64_t n = gr_count(dh_);
    float        *dg = gr_f(dg_), *du = gr_f(du_);
    const float  *dh = gr_f(dh_), *g = gr_f(g_), *u = gr_f(u_);

    (void)s;
#pragma omp parallel for simd schedule(static) if (parallel : n > GR_SERIAL)
    for (int64_t i = 0; i < n; i++) {
        const float x = g[i], up = u[i], d = dh[i]; /* read before dg, du, which may be g, u, are written */
        float       silu, dsilu;

        gr_silu_grad(x, &silu, &dsilu);
        dg[i] = d * up * dsilu;
        du[i] = d * silu;
    }
}
