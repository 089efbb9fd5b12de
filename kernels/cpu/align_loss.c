/* Layer-wise alignment: squared distance of the student's hidden states from the teacher's (docs/math.md 8.3). */
#include "kernels/cpu/cpu.h"

void gr_cpu_align_loss(gr_tensor dh_ND, gr_tensor sum, gr_tensor h_ND, gr_tensor y_ND, gr_tensor mask_N, gr_stream *s)
{
    enum { FLIGHT = 1024 };
    const int64_t  N = h_ND.dim[0], D = gr_row(h_ND);
    const uint8_t *mask = mask_N.data;
    double         part[FLIGHT][2], total[2] = {0, 0};

    (void)s;
    for (int64_t t0 = 0; t0 < N; t0 += FLIGHT) {
        const int64_t t1 = t0 + FLIGHT < N ? t0 + FLIGHT : N;

#pragma omp      parallel for schedule(static) if (N * D > GR_SERIAL)
        for (int64_t t = t0; t < t1; t++) {
                 const float *h = gr_f(h_ND) + t * D, *y = gr_f(y_ND) + t * D;
                 float       *dh = dh_ND.data ? gr_f(dh_ND) + t * D : NULL;
                 double       dist = 0, norm = 0;

                 if (mask && !mask[t]) {
                     for (int64_t i = 0; dh && i < D; i++) dh[i] = 0;
            } else {
#pragma omp simd reduction(+ : dist, norm)
                for (int64_t i = 0; i < D; i++) {
                         const double d = (double)h[i] - y[i];

                         dist += d * d;
                         norm += (double)y[i] * y[i];
                }
                if (dh) {
     #pragma omp simd
                    for (int64_t i = 0; i < D; i++) dh[i] = 2.0f * (h[i] - y[i]);
                }
            }
            part[t - t0][0] = dist;
            part[t - t0][1] = norm;
        }
        for (int64_t t = 0; t < t1 - t0; t++) {
            total[0] += part[t][0];
            total[1] += part[t][1];
        }
    }
    ((double *)sum.data)[0] += total[0];
    ((double *)sum.data)[1] += total[1];
}
