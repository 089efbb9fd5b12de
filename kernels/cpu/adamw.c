/* AdamW (docs/math.md 9.4; Loshchilov, Hutter 2019, arXiv:1711.05101): one pass over four streams in, three out. */
#include "kernels/cpu/cpu.h"
#include <math.h>

void gr_cpu_adamw(gr_tensor p_, gr_tensor m_, gr_tensor v_, gr_tensor g_, const gr_adamw *h, gr_stream *s)
{
    const int64_t n = gr_count(p_);
    const float   b1 = h->beta1, b2 = h->beta2, c1 = 1.0f - b1, c2 = 1.0f - b2, gs = h->grad_scale, eps = h->eps;
    const float   keep = 1.0f - h->lr * h->weight_decay, step = h->lr / h->bias1, r2 = 1.0f / sqrtf(h->bias2);
    float        *p = gr_f(p_), *m = gr_f(m_), *v = gr_f(v_);
    const float  *g = gr_f(g_);

    (void)s;
#pragma omp parallel for simd schedule(static) if (parallel : n > GR_SERIAL)
    for (int64_t i = 0; i < n; i++) {
        const float gi = g[i] * gs, mi = b1 * m[i] + c1 * gi, vi = b2 * v[i] + c2 * (gi * gi);

        m[i] = mi;
        v[i] = vi;
        p[i] = keep * p[i] - step * mi / (sqrtf(vi) * r2 + eps);
    }
}
