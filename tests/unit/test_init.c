/* What parameters start from: the laws of gr_init, and that options set them. */
/*TEST
np: 1
timeout: 20
*/
#include "config/options.h"
#include "model/model.h"
#include "tests/unit/oracle.h"

enum { N = 4000 };

static const float *fill(gr_init init, const gr_init_law *law)
{
    const gr_param_spec spec = {"w", 2, {N / 4, 4, 1}, init, false};
    float              *x = poisoned(N);

    gr_init_fill(x, &spec, "model.layers.0.w", 11, law);
    return x;
}

/* Mean of f(x), all of which must be within [lo, hi]. */
static double mean_within(const float *x, double (*f)(double), double lo, double hi, const char *what)
{
    double sum = 0;
    int    out = 0;

    for (int i = 0; i < N; i++) {
        const double v = f((double)x[i]);

        out += !(v >= lo * (1 - 1e-6) && v <= hi * (1 + 1e-6)); /* x is fp32 */
        sum += v;
    }
    CHECK(out == 0, "%s: %d of %d values outside [%g, %g]", what, out, N, lo, hi);
    return sum / N;
}

static double softplus(double x)
{
    return log1p(exp(x));
}

static double log_softplus(double x)
{
    return log(softplus(x));
}

/* The mean of N uniform values is within 5 sigma of the middle, sigma = width / sqrt(12 N). */
static void check_middle(double mean, double lo, double hi, const char *what)
{
    CHECK(fabs(mean - (lo + hi) / 2) < 5 * (hi - lo) / sqrt(12.0 * N), "%s: mean %g of [%g, %g]", what, mean, lo, hi);
}

static void check_gates(double a_min, double a_max, double dt_min, double dt_max)
{
    gr_model_spec spec = {.init_std = 0.02, .mixer = gr_options_default()};
    gr_init_law   law;
    const float  *a, *dt;

    spec.mixer.a_min = a_min, spec.mixer.a_max = a_max, spec.mixer.dt_min = dt_min, spec.mixer.dt_max = dt_max;
    law = gr_init_law_of(&spec);
    a = fill(GR_INIT_A_LOG, &law), dt = fill(GR_INIT_DT_BIAS, &law);
    check_middle(mean_within(a, exp, fmax(a_min, 1e-3), a_max, "A"), a_min, a_max, "A");
    mean_within(dt, softplus, dt_min, dt_max, "dt");
    check_middle(mean_within(dt, log_softplus, -INFINITY, INFINITY, "log dt"), log(dt_min), log(dt_max), "log dt");
}

int main(void)
{
    const gr_cfg_mixer preset = gr_options_default();
    const gr_init_law  law = {.std = 0.5};
    const float       *x = fill(GR_INIT_DELTA, &law), *y = fill(GR_INIT_NORMAL, &law);
    double             var = 0;
    int                bad = 0;

    for (int i = 0; i < N; i++) {
        bad += x[i] != (i % 4 == 3 ? 1.0f : 0.0f);
        var += (double)y[i] * y[i] / N;
    }
    CHECK(bad == 0, "delta: %d values", bad);
    CHECK(fabs(sqrt(var) - 0.5) < 5 * 0.5 / sqrt(2.0 * N), "normal: std %g", sqrt(var));
    check_gates(preset.a_min, preset.a_max, preset.dt_min, preset.dt_max);
    check_gates(1, 16, 1e-3, 0.1);
    check_gates(0.5, 0.75, 0.01, 2);
    take_back();
    return check_result();
}
