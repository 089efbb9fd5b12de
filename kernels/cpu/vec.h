/** @file vec.h  Elementary functions the compiler can vectorise.  [leaf]
 *
 * libm's expf is a call per element. These are branch-free polynomials, inlined into `omp simd` loops.
 * Accuracy is stated per function and tested against libm in fp64 (tests/unit/test_vec.c).
 */
#ifndef GR_KERNELS_CPU_VEC_H
#define GR_KERNELS_CPU_VEC_H
#include <math.h>
#include <stdint.h>
#include <string.h>

/** e^x, relative error <= 1e-7 for x in [-87, 88]; 0 below -103, +inf above 88.8; NaN stays NaN. */
static inline float gr_expf(float x)
{
    /* Cody-Waite: x = n ln2 + r, |r| <= ln2 / 2; then e^r by Cephes' minimax polynomial; scale by 2^n in two steps so
     * that subnormal results round once. */
    const float xc =
        x < 88.8f ? (x > -104.0f ? x : -104.0f) : 88.8f; /* NaN too becomes finite: its shifts stay defined */
    const float   n = nearbyintf(xc * 1.44269504088896341f);
    const float   r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145751953125f, xc));
    float         p = 1.9875691500e-4f;
    const int32_t i = (int32_t)n, i1 = i >> 1, i2 = i - i1;
    int32_t       b1 = (i1 + 127) << 23, b2 = (i2 + 127) << 23;
    float         s1, s2, y;

    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    memcpy(&s1, &b1, 4);
    memcpy(&s2, &b2, 4);
    y = p * s1 * s2;
    return x != x ? x : y;
}

/** 1 / (1 + e^-x), relative error <= 4e-7 for x >= -87. */
static inline float gr_sigmoidf(float x)
{
    return 1.0f / (1.0f + gr_expf(-x));
}

/** x sigmoid(x), likewise. */
static inline float gr_siluf(float x)
{
    return x * gr_sigmoidf(x);
}

/** log(1 + e^x), relative error <= 4e-7. */
static inline float gr_softplusf(float x)
{
    /* max(x, 0) + log1p(u), u = e^-|x| in (0, 1]; log1p(u) = 2 atanh(t), t = u / (2 + u) <= 1/3. */
    const float u = gr_expf(-fabsf(x)), t = u / (2.0f + u), t2 = t * t;
    float       p = 1.0f / 15;

    p = fmaf(p, t2, 1.0f / 13);
    p = fmaf(p, t2, 1.0f / 11);
    p = fmaf(p, t2, 1.0f / 9);
    p = fmaf(p, t2, 1.0f / 7);
    p = fmaf(p, t2, 1.0f / 5);
    p = fmaf(p, t2, 1.0f / 3);
    p = fmaf(p, t2, 1.0f);
    return (x > 0.0f ? x : 0.0f) + 2.0f * t * p;
}

/** y = silu(x) and d = its derivative, of one exponential. 1 - sigmoid is taken as e^-x sigmoid, which does not cancel.
 */
static inline void gr_silu_grad(float x, float *y, float *d)
{
    const float e = gr_expf(x > -88.0f ? -x : 88.0f), s = 1.0f / (1.0f + e);

    *y = x * s;
    *d = s * (1.0f + x * (e * s));
}

/** d silu / dx, absolute error <= 3e-7. */
static inline float gr_dsiluf(float x)
{
    float y, d;

    gr_silu_grad(x, &y, &d);
    return d;
}

/** Sine and cosine, absolute error <= 1e-7. x is fp64 because a phase that has grown would have lost its fraction in
 * fp32; |x| <= 1e9. */
static inline void gr_sincos(double x, float *sine, float *cosine)
{
    /* x = n pi/2 + r, |r| <= pi/4; sin r and cos r by Cephes' polynomials; n mod 4 says which is which, and the signs.
     */
    const double  n = nearbyint(x * 0.63661977236758134308);
    const float   r = (float)fma(n, -6.123233995736766e-17, fma(n, -1.5707963267948966, x)), r2 = r * r;
    const int32_t quarter = (int32_t)n;
    float         s = -1.9515295891e-4f, c = 2.443315711809948e-5f, t;

    s = fmaf(s, r2, 8.3321608736e-3f);
    s = fmaf(s, r2, -1.6666654611e-1f);
    s = fmaf(s * r2, r, r);
    c = fmaf(c, r2, -1.388731625493765e-3f);
    c = fmaf(c, r2, 4.166664568298827e-2f);
    c = fmaf(c * r2, r2, fmaf(-0.5f, r2, 1.0f));
    t = quarter & 1 ? c : s;
    c = quarter & 1 ? s : c;
    *sine = quarter & 2 ? -t : t;
    *cosine = (quarter + 1) & 2 ? -c : c;
}
#endif
