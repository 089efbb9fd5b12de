/* A bias per channel: the same for every row. */
#include "kernels/cpu/cpu.h"

void gr_cpu_bias(gr_tensor y_RD, gr_tensor b_D, gr_stream *s)
{
    const int64_t D = gr_count(b_D), R = gr_count(y_RD) / D;
    const float  *b = gr_f(b_D);

    (void)s;
#pragma omp parallel for schedule(static) if (R * D > GR_SERIAL)
    for (int64_t r = 0; r < R; r++) {
        float *y = gr_f(y_RD) + r * D;
#pragma omp simd
        for (int64_t i = 0; i < D; i++) y[i] += b[i];
    }
}

void gr_cpu_bias_back(gr_tensor db_D, gr_tensor dy_RD, gr_stream *s)
{
    const int64_t D = db_D.data ? gr_count(db_D) : 1, R = db_D.data ? gr_count(dy_RD) / D : 0; /* none: frozen */
    const int64_t n_block = (R + GR_ROWS - 1) / GR_ROWS, flight = gr_flight(D);
    float         part[GR_PART];

    (void)s;
    for (int64_t b0 = 0; b0 < n_block; b0 += flight) {
        const int64_t b1 = b0 + flight < n_block ? b0 + flight : n_block;

#pragma omp parallel for schedule(static) if (R * D > GR_SERIAL)
        for (int64_t b = b0; b < b1; b++) {
            const int64_t r1 = (b + 1) * GR_ROWS < R ? (b + 1) * GR_ROWS : R;
            float        *sum = part + (b - b0) * D;

            for (int64_t i = 0; i < D; i++) sum[i] = 0;
            for (int64_t r = b * GR_ROWS; r < r1; r++) {
                const float *dy = gr_f(dy_RD) + r * D;
#pragma omp simd
                for (int64_t i = 0; i < D; i++) sum[i] += dy[i];
            }
        }
        gr_cpu_add_parts(gr_f(db_D), part, b1 - b0, D, D);
    }
}
