/* Gates of a recurrent state: log-decay g = -exp(a_log) softplus(a + dt_bias), and the step size softplus(x + b) alone:
 * docs/math.md 1.2, 2.2. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

void gr_cpu_decay(gr_tensor g_NH, gr_tensor a_NH, gr_tensor a_log_H, gr_tensor dt_bias_H, gr_stream *s)
{
    const int64_t H = gr_count(a_log_H), N = gr_count(a_NH) / H;
    const float  *a_log = gr_f(a_log_H), *bias = gr_f(dt_bias_H);

    (void)s;
#pragma omp parallel for schedule(static) if (N * H > GR_SERIAL)
    for (int64_t t = 0; t < N; t++) {
        const float *a = gr_f(a_NH) + t * H;
        float       *g = gr_f(g_NH) + t * H;

#pragma omp simd
        for (int64_t h = 0; h < H; h++) g[h] = -gr_expf(a_log[h]) * gr_softplusf(a[h] + bias[h]);
    }
}

/* da = -dg exp(a_log) sigmoid(a + dt_bias),  da_log = sum dg g,  ddt_bias = sum da. */
void gr_cpu_decay_back(gr_tensor da_NH, gr_tensor da_log_H, gr_tensor ddt_bias_H, gr_tensor dg_NH, gr_tensor g_NH,
                       gr_tensor a_NH, gr_tensor a_log_H, gr_tensor dt_bias_H, gr_stream *s)
{
    const int64_t H = gr_count(a_log_H), N = gr_count(a_NH) / H;
    const int64_t n_block = (N + GR_ROWS - 1) / GR_ROWS, flight = gr_flight(2 * H);
    const float  *a_log = gr_f(a_log_H), *bias = gr_f(dt_bias_H);
    float         part[GR_PART]; /* per block: da_log [H], ddt_bias [H] */

    (void)s;
    for (int64_t b0 = 0; b0 < n_block; b0 += flight) {
        const int64_t b1 = b0 + flight < n_block ? b0 + flight : n_block;

#pragma omp parallel for schedule(static) if (N * H > GR_SERIAL)
        for (int64_t b = b0; b < b1; b++) {
            const int64_t t1 = (b + 1) * GR_ROWS < N ? (b + 1) * GR_ROWS : N;
            float        *d_log = part + (b - b0) * 2 * H, *d_bias = d_log + H;

            for (int64_t h = 0; h < 2 * H; h++) d_log[h] = 0;
            for (int64_t t = b * GR_ROWS; t < t1; t++) {
                const float *dg = gr_f(dg_NH) + t * H, *g = gr_f(g_NH) + t * H, *a = gr_f(a_NH) + t * H;
                float       *da = gr_f(da_NH) + t * H;

#pragma omp simd
                for (int64_t h = 0; h < H; h++) {
                    const float d = -dg[h] * gr_expf(a_log[h]) * gr_sigmoidf(a[h] + bias[h]);

                    d_log[h] += dg[h] * g[h];
                    d_bias[h] += d;
                    da[h] = d;
                }
            }
        }
        if (da_log_H.data) gr_cpu_add_parts(gr_f(da_log_H), part, b1 - b0, H, 2 * H);
        if (ddt_bias_H.data) gr_cpu_add_parts(gr_f(ddt_bias_H), part + H, b1 - b0, H, 2 * H);
    }
}

void gr_cpu_softplus(gr_tensor y_NH, gr_tensor x_NH, gr_tensor b_H, gr_stream *s)
{
    const int64_t H = gr_count(b_H), N = gr_count(x_NH) / H;
    const float  *b = gr_f(b_H);

    (void)s;
#pragma omp parallel for schedule(static) if (N * H > GR_SERIAL)
    for (int64_t t = 0; t < N; t++) {
        const float *x = gr_f(x_NH) + t * H;
        float       *y = gr_f(y_NH) + t * H;

#pragma omp simd
        for (int64_t h = 0; h < H; h++) y[h] = gr_softplusf(x[h] + b[h]);
    }
}

/* dx = dy sigmoid(x + b),  db = sum dx. */
void gr_cpu_softplus_back(gr_tensor dx_NH, gr_tensor db_H, gr_tensor dy_NH, gr_tensor x_NH, gr_tensor b_H, gr_stream *s)
{
    const int64_t H = gr_count(b_H), N = gr_count(x_NH) / H;
    const int64_t n_block = (N + GR_ROWS - 1) / GR_ROWS, flight = gr_flight(H);
    const float  *bias = gr_f(b_H);
    float         part[GR_PART];

    (void)s;
    for (int64_t b0 = 0; b0 < n_block; b0 += flight) {
        const int64_t b1 = b0 + flight < n_block ? b0 + flight : n_block;

#pragma omp parallel for schedule(static) if (N * H > GR_SERIAL)
        for (int64_t b = b0; b < b1; b++) {
            const int64_t t1 = (b + 1) * GR_ROWS < N ? (b + 1) * GR_ROWS : N;
            float        *db = part + (b - b0) * H;

            for (int64_t h = 0; h < H; h++) db[h] = 0;
            for (int64_t t = b * GR_ROWS; t < t1; t++) {
                const float *dy = gr_f(dy_NH) + t * H, *x = gr_f(x_NH) + t * H;
                float       *dx = gr_f(dx_NH) + t * H;

#pragma omp simd
                for (int64_t h = 0; h < H; h++) db[h] += dx[h] = dy[h] * gr_sigmoidf(x[h] + bias[h]);
            }
        }
        if (db_H.data) gr_cpu_add_parts(gr_f(db_H), part, b1 - b0, H, H);
    }
}
