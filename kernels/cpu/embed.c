/* Rows of the embedding table. An id outside the table gives a row of NaN, which no loss survives unseen. */
#include "kernels/cpu/cpu.h"
#include <math.h>
#include <string.h>

void gr_cpu_embed(gr_tensor x_ND, gr_tensor table_VD, gr_tensor id_N, gr_stream *s)
{
    const int64_t  N = gr_count(id_N), V = table_VD.dim[0], D = gr_row(table_VD);
    const int32_t *id = id_N.data;

    (void)s;
#pragma omp parallel for schedule(static) if (N * D > GR_SERIAL)
    for (int64_t t = 0; t < N; t++) {
        float *x = gr_f(x_ND) + t * D;

        if (id[t] >= 0 && id[t] < V)
            memcpy(x, gr_f(table_VD) + id[t] * D, (size_t)D * sizeof *x);
        else
            for (int64_t i = 0; i < D; i++) x[i] = NAN;
    }
}

/* Tokens repeat, so threads share columns, not tokens: every element of dtable is summed in token order. */
void gr_cpu_embed_back(gr_tensor dtable_VD, gr_tensor dx_ND, gr_tensor id_N, gr_stream *s)
{
    enum { COLS = 64 };
    const int64_t  N = gr_count(id_N), V = dtable_VD.dim[0], D = gr_row(dtable_VD);
    const int32_t *id = id_N.data;

    (void)s;
#pragma omp parallel for schedule(static) if (N * D > GR_SERIAL)
    for (int64_t c0 = 0; c0 < D; c0 += COLS) {
        const int64_t c1 = c0 + COLS < D ? c0 + COLS : D;

        for (int64_t t = 0; t < N; t++) {
            const float *dx = gr_f(dx_ND) + t * D;
            float       *row = gr_f(dtable_VD) + id[t] * D;

            if (id[t] < 0 || id[t] >= V) continue;
#pragma omp simd
            for (int64_t c = c0; c < c1; c++) row[c] += dx[c];
        }
    }
}
