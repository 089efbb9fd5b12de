/* Rotary positions, half-split pairs: docs/math.md 5.1. */
#include "kernels/cpu/cpu.h"
#include <math.h>

void gr_cpu_rope_table(gr_tensor cs_ND, gr_tensor pos_N, gr_tensor inv_freq, gr_stream *s)
{
    const int64_t  N = gr_count(pos_N), half = gr_count(inv_freq);
    const int32_t *pos = pos_N.data;

    (void)s;
#pragma omp parallel for schedule(static) if (N > 16)
    for (int64_t t = 0; t < N; t++) {
        float *cs = gr_f(cs_ND) + t * 2 * half;

        for (int64_t i = 0; i < half; i++) {
            const double angle = (double)pos[t] * gr_f(inv_freq)[i];

            cs[i] = (float)cos(angle);
            cs[half + i] = (float)sin(angle);
        }
    }
}

/* (a, b) -> (a cos - b sin, b cos + a sin); backward is the same with -sin. */
void gr_cpu_rope(gr_tensor x_NHD, gr_tensor cs_ND, int sign, gr_stream *s)
{
    const int64_t N = x_NHD.dim[0], H = x_NHD.dim[1], D = x_NHD.dim[2], half = D / 2;
    const float   sgn = (float)sign;

    (void)s;
#pragma omp parallel for schedule(static) if (N * H * D > GR_SERIAL)
    for (int64_t t = 0; t < N; t++) {
        const float *c = gr_f(cs_ND) + t * D, *sn = c + half;

        for (int64_t h = 0; h < H; h++) {
            float *a = gr_f(x_NHD) + (t * H + h) * D, *b = a + half;

#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                const float ai = a[i], bi = b[i], si = sgn * sn[i];

                a[i] = ai * c[i] - bi * si;
                b[i] = bi * c[i] + ai * si;
            }
        }
    }
}
