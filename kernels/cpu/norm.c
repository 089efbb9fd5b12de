/* Norms over the channels of a row: docs/math.md 0.2. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* <a, b>: fp32 inside blocks of 1024, fp64 across. */
static double dot(const float *a, const float *b, int64_t n)
{
    double total = 0;

    for (int64_t i0 = 0; i0 < n; i0 += 1024) {
        const int64_t i1 = i0 + 1024 < n ? i0 + 1024 : n;
        float         t = 0;

#pragma omp simd reduction(+ : t)
        for (int64_t i = i0; i < i1; i++) t += a[i] * b[i];
        total += t;
    }
    return total;
}

/* Rows of weights, which rows of x take in turn. */
static int64_t weights(gr_tensor w)
{
    return w.rank == 2 ? w.dim[0] : 1;
}

void gr_cpu_rmsnorm(gr_tensor y_RD, gr_tensor rstd_R, gr_tensor x_RD, gr_tensor w_GD, float eps, gr_stream *s)
{
    const int64_t G = weights(w_GD), D = gr_count(w_GD) / G, R = gr_count(x_RD) / D;

    (void)s;
#pragma omp parallel for schedule(static) if (R * D > GR_SERIAL)
    for (int64_t r = 0; r < R; r++) {
        const float *x = gr_f(x_RD) + r * D, *w = gr_f(w_GD) + r % G * D;
        float       *y = gr_f(y_RD) + r * D;
        const float  rstd = (float)(1.0 / sqrt(dot(x, x, D) / (double)D + eps));

        gr_f(rstd_R)[r] = rstd;
#pragma omp simd
        for (int64_t i = 0; i < D; i++) y[i] = x[i] * rstd * w[i];
    }
}

/* With xh = x rstd and a = dy w:  dx = rstd (a - xh mean(a xh)),  dw = sum over rows of dy xh. */
void gr_cpu_rmsnorm_back(gr_tensor dx_RD, gr_tensor dw_GD, gr_tensor dy_RD, gr_tensor x_RD, gr_tensor rstd_R,
                         gr_tensor w_GD, gr_stream *s)
{
    const int64_t G = weights(w_GD), D = gr_count(w_GD) / G, R = gr_count(x_RD) / D;
    const int64_t n_block = (R + GR_ROWS - 1) / GR_ROWS, flight = gr_flight(G * D);
    float         part[GR_PART];

    (void)s;
    for (int64_t b0 = 0; b0 < n_block; b0 += flight) {
        const int64_t b1 = b0 + flight < n_block ? b0 + flight : n_block;

#pragma omp parallel for schedule(static) if (R * D > GR_SERIAL)
        for (int64_t b = b0; b < b1; b++) {
            const int64_t r1 = (b + 1) * GR_ROWS < R ? (b + 1) * GR_ROWS : R;
            float        *sum = dw_GD.data ? part + (b - b0) * G * D : NULL;

            for (int64_t i = 0; sum && i < G * D; i++) sum[i] = 0;
            for (int64_t r = b * GR_ROWS; r < r1; r++) {
                const float *dy = gr_f(dy_RD) + r * D, *x = gr_f(x_RD) + r * D, *w = gr_f(w_GD) + r % G * D;
                float       *dw = sum ? sum + r % G * D : NULL;
                const float  rstd = gr_f(rstd_R)[r];
                float        mean = 0;

#pragma omp simd reduction(+ : mean)
                for (int64_t i = 0; i < D; i++) mean += dy[i] * w[i] * x[i];
                mean *= rstd / (float)D;
                if (dw) {
#pragma omp simd
                    for (int64_t i = 0; i < D; i++) dw[i] += dy[i] * (x[i] * rstd);
                }
                if (dx_RD.data) {
                    float *dx = gr_f(dx_RD) + r * D;
#pragma omp simd
                    for (int64_t i = 0; i < D; i++) dx[i] = rstd * (dy[i] * w[i] - x[i] * rstd * mean);
                }
            }
        }
        if (dw_GD.data) gr_cpu_add_parts(gr_f(dw_GD), part, b1 - b0, G * D, G * D);
    }
}

void gr_cpu_l2norm(gr_tensor y_RD, gr_tensor rs_R, gr_tensor x_RD, float eps, gr_stream *s)
{
    const int64_t R = gr_count(rs_R), D = R > 0 ? gr_count(x_RD) / R : 0;

    (void)s;
#pragma omp parallel for schedule(static) if (R * D > GR_SERIAL)
    for (int64_t r = 0; r < R; r++) {
        const float *x = gr_f(x_RD) + r * D;
        float       *y = gr_f(y_RD) + r * D;
        const float  rs = (float)(1.0 / sqrt(dot(x, x, D) + eps));

        gr_f(rs_R)[r] = rs;
#pragma omp simd
        for (int64_t i = 0; i < D; i++) y[i] = x[i] * rs;
    }
}

void gr_cpu_l2norm_back(gr_tensor dx_RD, gr_tensor dy_RD, gr_tensor y_RD, gr_tensor rs_R, gr_stream *s)
{
    const int64_t R = gr_count(rs_R), D = R > 0 ? gr_count(y_RD) / R : 0;

    (void)s;
#pragma omp parallel for schedule(static) if (R * D > GR_SERIAL)
    for (int64_t r = 0; r < R; r++) {
        const float *dy = gr_f(dy_RD) + r * D, *y = gr_f(y_RD) + r * D;
        float       *dx = gr_f(dx_RD) + r * D;
        const float  rs = gr_f(rs_R)[r], ydy = (float)dot(y, dy, D);

#pragma omp simd
        for (int64_t i = 0; i < D; i++) dx[i] = rs * (dy[i] - y[i] * ydy);
    }
}

void gr_cpu_unit_norm(gr_tensor y_RD, gr_tensor inv_R, gr_tensor x_RD, float eps, gr_stream *s)
{
    const int64_t R = gr_count(inv_R), D = R > 0 ? gr_count(x_RD) / R : 0;

    (void)s;
#pragma omp parallel for schedule(static) if (R * D > GR_SERIAL)
    for (int64_t r = 0; r < R; r++) {
        const float *x = gr_f(x_RD) + r * D;
        float       *y = gr_f(y_RD) + r * D;
        const float  inv = (float)(1.0 / (sqrt(dot(x, x, D)) + eps));

        gr_f(inv_R)[r] = inv;
#pragma omp simd
        for (int64_t i = 0; i < D; i++) y[i] = x[i] * inv;
    }
}

/* |y| / |x| = inv, so what the eps does to dx is in |y|, which is 1 but for it. */
void gr_cpu_unit_norm_back(gr_tensor dx_RD, gr_tensor dy_RD, gr_tensor y_RD, gr_tensor inv_R, gr_stream *s)
{
    const int64_t R = gr_count(inv_R), D = R > 0 ? gr_count(y_RD) / R : 0;

    (void)s;
#pragma omp parallel for schedule(static) if (R * D > GR_SERIAL)
    for (int64_t r = 0; r < R; r++) {
        const float *dy = gr_f(dy_RD) + r * D, *y = gr_f(y_RD) + r * D;
        float       *dx = gr_f(dx_RD) + r * D;
        const double length = sqrt(dot(y, y, D));
        const float  inv = gr_f(inv_R)[r], along = length == 0 ? 0.0f : (float)(dot(y, dy, D) / length);

#pragma omp simd
        for (int64_t i = 0; i < D; i++) dx[i] = inv * (dy[i] - y[i] * along);
    }
}

/* y = (x rstd w) silu(z): norm before gate, as Gated DeltaNet has it (the other order is Mamba-2's). */
void gr_cpu_gated_norm(gr_tensor y_RD, gr_tensor rstd_R, gr_tensor x_RD, gr_tensor z_RD, gr_tensor w_D, float eps,
                       gr_stream *s)
{
    const int64_t D = gr_count(w_D), R = gr_count(x_RD) / D;
    const float  *w = gr_f(w_D);

    (void)s;
#pragma omp parallel for schedule(static) if (R * D > GR_SERIAL)
    for (int64_t r = 0; r < R; r++) {
        const float *x = gr_f(x_RD) + r * D, *z = gr_f(z_RD) + r * D;
        float       *y = gr_f(y_RD) + r * D;
        const float  rstd = (float)(1.0 / sqrt(dot(x, x, D) / (double)D + eps));

        gr_f(rstd_R)[r] = rstd;
#pragma omp simd
        for (int64_t i = 0; i < D; i++) y[i] = x[i] * rstd * w[i] * gr_siluf(z[i]);
    }
}

/* With xh = x rstd and dm = dy silu(z):  dz = dy xh w silu'(z);  dx, dw as in rmsnorm with dm for dy. */
void gr_cpu_gated_norm_back(gr_tensor dx_RD, gr_tensor dz_RD, gr_tensor dw_D, gr_tensor dy_RD, gr_tensor x_RD,
                            gr_tensor rstd_R, gr_tensor z_RD, gr_tensor w_D, gr_stream *s)
{
    const int64_t D = gr_count(w_D), R = gr_count(x_RD) / D;
    const int64_t n_block = (R + GR_ROWS - 1) / GR_ROWS, flight = gr_flight(D);
    const float  *w = gr_f(w_D);
    float         part[GR_PART];

    (void)s;
    for (int64_t b0 = 0; b0 < n_block; b0 += flight) {
        const int64_t b1 = b0 + flight < n_block ? b0 + flight : n_block;

#pragma omp parallel for schedule(static) if (R * D > GR_SERIAL)
        for (int64_t b = b0; b < b1; b++) {
            const int64_t r1 = (b + 1) * GR_ROWS < R ? (b + 1) * GR_ROWS : R;
            float        *dw = part + (b - b0) * D;

            for (int64_t i = 0; i < D; i++) dw[i] = 0;
            for (int64_t r = b * GR_ROWS; r < r1; r++) {
                const float *dy = gr_f(dy_RD) + r * D, *x = gr_f(x_RD) + r * D, *z = gr_f(z_RD) + r * D;
                float       *dx = gr_f(dx_RD) + r * D, *dz = gr_f(dz_RD) + r * D;
                const float  rstd = gr_f(rstd_R)[r];
                float        mean = 0;

#pragma omp simd reduction(+ : mean)
                for (int64_t i = 0; i < D; i++) mean += dy[i] * gr_siluf(z[i]) * w[i] * x[i];
                mean *= rstd / (float)D;
#pragma omp simd
                for (int64_t i = 0; i < D; i++) {
                    const float xh = x[i] * rstd;
                    float       dm, dsilu;

                    gr_silu_grad(z[i], &dm, &dsilu);
                    dm *= dy[i];
                    dw[i] += dm * xh;
                    dz[i] = dy[i] * xh * w[i] * dsilu;
                    dx[i] = rstd * (dm * w[i] - xh * mean);
                }
            }
        }
        if (dw_D.data) gr_cpu_add_parts(gr_f(dw_D), part, b1 - b0, D, D);
    }
}
