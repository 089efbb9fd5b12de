/* The polynomials of vec.h against libm in fp64, over the whole range of fp32. */
/*TEST
np: 1
timeout: 30
*/
#include "kernels/cpu/vec.h"
#include "tests/check.h"

static float from_bits(uint32_t u)
{
    float x;

    memcpy(&x, &u, 4);
    return x;
}

/* Largest relative error of f against `exact` for x in [lo, hi], x running over every `step`-th float. */
static double worst(float (*f)(float), double (*exact)(double), double lo, double hi, uint32_t step)
{
    double err = 0;

    for (uint64_t u = 0; u <= UINT32_MAX; u += step) {
        const float x = from_bits((uint32_t)u);
        double      y;

        if (!(x >= lo && x <= hi)) continue;
        y = exact(x);
        err = fmax(err, fabs(f(x) - y) / fmax(fabs(y), 1.2e-38)); /* below, fp32 itself loses digits */
    }
    return err;
}

static double sigmoid64(double x)
{
    return 1 / (1 + exp(-x));
}
static double silu64(double x)
{
    return x * sigmoid64(x);
}
static double softplus64(double x)
{
    return fmax(x, 0) + log1p(exp(-fabs(x)));
}

static void accuracy(void)
{
    static const struct {
        const char *name;
        float (*f)(float);
        double (*exact)(double);
        double lo, hi, tol;
    } fn[] = {{"exp", gr_expf, exp, -87, 88, 1e-7},
              {"sigmoid", gr_sigmoidf, sigmoid64, -87, 1e30, 4e-7},
              {"silu", gr_siluf, silu64, -80, 1e30, 4e-7},
              {"softplus", gr_softplusf, softplus64, -87, 1e30, 4e-7}};

    for (int i = 0; i < 4; i++) {
        const double err = worst(fn[i].f, fn[i].exact, fn[i].lo, fn[i].hi, 997);
        CHECK(err <= fn[i].tol, "%s: relative error %.2e > %.1e", fn[i].name, err, fn[i].tol);
    }
    for (double x = -30; x <= 30; x += 1e-4) { /* silu' passes through 0, so absolute */
        const double s = sigmoid64((float)x), y = s * (1 + (float)x * (1 - s));
        CHECK(fabs(gr_dsiluf((float)x) - y) <= 3e-7, "dsilu(%g) = %.9g, not %.9g", x, gr_dsiluf((float)x), y);
    }
}

/* Phases: absolute error, for they pass through 0; also where they have grown large. */
static void phases(void)
{
    static const double from[] = {-10, 1e6, -1e9, 1e9 - 10};

    for (int i = 0; i < 4; i++)
        for (double x = from[i]; x < from[i] + 10; x += 1.1e-4) {
            float s, c;

            gr_sincos(x, &s, &c);
            CHECK(fabs(s - sin(x)) <= 1e-7 && fabs(c - cos(x)) <= 1e-7, "sincos(%.9g) = %.9g, %.9g", x, s, c);
        }
}

static void edges(void)
{
    CHECK(gr_expf(0) == 1 && gr_expf(-0.0f) == 1, "e^0");
    CHECK(gr_expf(-INFINITY) == 0 && gr_expf(-104) == 0 && gr_expf(-1e30f) == 0, "e^-inf");
    CHECK(gr_expf(INFINITY) == INFINITY && gr_expf(88.8f) == INFINITY && gr_expf(1e30f) == INFINITY, "e^inf");
    CHECK(gr_expf(88.72f) < INFINITY, "e^88.72 = %g", gr_expf(88.72f));
    CHECK(isnan(gr_expf(NAN)) && isnan(gr_sigmoidf(NAN)) && isnan(gr_siluf(NAN)) && isnan(gr_softplusf(NAN)), "NaN");
    for (float x = -103; x < -87; x += 0.01f) /* subnormal results: right to the last bit there is */
        CHECK(fabs(gr_expf(x) - exp(x)) <= 1.5 * 1.4e-45 + 1e-7 * exp(x), "e^%g = %g, not %g", x, gr_expf(x), exp(x));
    CHECK(gr_sigmoidf(-200) == 0 && gr_sigmoidf(200) == 1, "sigmoid far out");
    CHECK(gr_siluf(-200) == 0 && gr_siluf(200) == 200, "silu far out");
    CHECK(gr_softplusf(-200) == 0 && gr_softplusf(200) == 200, "softplus far out");
}

/* Loops must be vectorised to the same bits as one call: no element may depend on its place in a row. */
static void same_everywhere(void)
{
    enum { N = 1003 };
    float x[N], y[N];

    for (int i = 0; i < N; i++) x[i] = (float)(i - 500) * 0.173f;
#pragma omp simd
    for (int i = 0; i < N; i++) y[i] = gr_siluf(x[i]) + gr_expf(x[i]);
    for (int i = 0; i < N; i++) {
        volatile float one = x[i];
        CHECK(y[i] == gr_siluf(one) + gr_expf(one), "element %d: %.9g alone, %.9g in a loop", i,
              gr_siluf(one) + gr_expf(one), y[i]);
    }
}

int main(void)
{
    accuracy();
    phases();
    edges();
    same_everywhere();
    return check_result();
}
