/* A skip past a recurrence, one weight per head: docs/math.md 1.2. */
#include "kernels/cpu/cpu.h"

void gr_cpu_skip(gr_tensor y_NHD, gr_tensor x_NGD, gr_tensor d_H, gr_stream *s)
{
    const int64_t N = y_NHD.dim[0], H = y_NHD.dim[1], G = x_NGD.dim[1], D = y_NHD.dim[2], rep = H / G;
    const float  *d = gr_f(d_H);

    (void)s;
#pragma omp parallel for schedule(static) if (N * H * D > GR_SERIAL)
    for (int64_t t = 0; t < N; t++)
        for (int64_t h = 0; h < H; h++) {
            const float *x = gr_f(x_NGD) + (t * G + h / rep) * D;
            float       *y = gr_f(y_NHD) + (t * H + h) * D;

#pragma omp simd
            for (int64_t i = 0; i < D; i++) y[i] += d[h] * x[i];
        }
}

/* dx += d_h dy over the heads of the group, in order;  dd_h = sum over tokens of <dy, x>. */
void gr_cpu_skip_back(gr_tensor dx_NGD, gr_tensor dd_H, gr_tensor dy_NHD, gr_tensor x_NGD, gr_tensor d_H, gr_stream *s)
{
    const int64_t N = dy_NHD.dim[0], H = dy_NHD.dim[1], G = x_NGD.dim[1], D = dy_NHD.dim[2], rep = H / G;
    const int64_t n_block = (N + GR_ROWS - 1) / GR_ROWS, flight = gr_flight(H);
    const float  *d = gr_f(d_H);
    float         part[GR_PART];

    (void)s;
    for (int64_t b0 = 0; b0 < n_block; b0 += flight) {
        const int64_t b1 = b0 + flight < n_block ? b0 + flight : n_block;

#pragma omp parallel for schedule(static) if (N * H * D > GR_SERIAL)
        for (int64_t b = b0; b < b1; b++) {
            const int64_t t1 = (b + 1) * GR_ROWS < N ? (b + 1) * GR_ROWS : N;
            float        *dd = part + (b - b0) * H;

            for (int64_t h = 0; h < H; h++) dd[h] = 0;
            for (int64_t t = b * GR_ROWS; t < t1; t++)
                for (int64_t h = 0; h < H; h++) {
                    const int64_t at = (t * G + h / rep) * D;
                    const float  *dy = gr_f(dy_NHD) + (t * H + h) * D, *x = gr_f(x_NGD) + at;
                    float        *dx = gr_f(dx_NGD) + at, sum = 0;

#pragma omp simd reduction(+ : sum)
                    for (int64_t i = 0; i < D; i++) {
                        dx[i] += d[h] * dy[i];
                        sum += dy[i] * x[i];
                    }
                    dd[h] += sum;
                }
        }
        if (dd_H.data) gr_cpu_add_parts(gr_f(dd_H), part, b1 - b0, H, H);
    }
}
