/* The learning rate at every step of every schedule, and AdamW with clipping and decoupled decay against the formulas
 * in fp64. */
/*TEST
np: 1
timeout: 30
*/
#include "optim/optim.h"
#include "tests/check.h"
#include "util/rng.h"
#include <string.h>

enum { STEPS = 100, WARMUP = 10, DECAY = 30 };

static double rate(const char *kind, int64_t t)
{
    const gr_cfg_optim    optim = {.lr = 2.0};
    const gr_cfg_schedule schedule = {.kind = kind, .warmup = WARMUP, .min_ratio = 0.1, .decay = DECAY};

    return gr_learning_rate(&optim, &schedule, t, STEPS);
}

static void check_schedules(void)
{
    static const char *const kinds[] = {"cosine", "linear", "constant", "wsd"};

    for (int k = 0; k < 4; k++) {
        for (int t = 0; t < WARMUP; t++)
            CHECK(fabs(rate(kinds[k], t) - 2.0 * (t + 1) / WARMUP) < 1e-12, "%s: warm-up at %d", kinds[k], t);
        for (int t = WARMUP; t + 1 < STEPS; t++)
            CHECK(rate(kinds[k], t + 1) <= rate(kinds[k], t) + 1e-12, "%s rises at %d", kinds[k], t);
        CHECK(fabs(rate(kinds[k], STEPS - 1) - (k == 2 ? 2.0 : 0.2)) < 1e-12, "%s ends at %g", kinds[k],
              rate(kinds[k], STEPS - 1));
    }
    CHECK(fabs(rate("cosine", 54) - 1.1) < 1e-12, "cosine is half-way down at %g", rate("cosine", 54));
    CHECK(fabs(rate("linear", 54) - 1.1) < 1e-12, "linear is half-way down at %g", rate("linear", 54));
    CHECK(rate("wsd", STEPS - DECAY - 1) == 2.0 && rate("wsd", STEPS - DECAY) < 2.0, "wsd falls over the last %d steps",
          DECAY);
    CHECK(fabs(rate("wsd", 84) - 1.1) < 1e-12, "wsd is half-way down at %g", rate("wsd", 84));
}

/* Two parameters, one that decays and one that does not, and one frozen; 7 steps. */
static void check_adamw(double clip)
{
    const gr_cfg_optim  cfg = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = clip};
    const gr_param_spec spec[] = {{"w", 2, {3, 5, 1}, GR_INIT_NORMAL, true},
                                  {"norm", 1, {7, 1, 1}, GR_INIT_ONE, false},
                                  {"frozen", 1, {4, 1, 1}, GR_INIT_NORMAL, true}};
    enum { N = 22 };
    double     p[N], m[N] = {0}, v[N] = {0}, sum = 0;
    gr_params *ps = NULL;

    CHECK(gr_params_open(&ps, &gr_ops_cpu) == GR_OK, "open");
    for (int i = 0; i < 3; i++) CHECK(gr_params_add(ps, &spec[i], "x.", 0, NULL) == GR_OK, "add");
    CHECK(gr_params_train_only(ps, "x.w,*norm") == GR_OK && gr_params_allocate(ps, true) == GR_OK, "allocate");
    for (int i = 0; i < 3; i++) CHECK(gr_params_init(ps, i, 3, &(gr_init_law){.std = 0.5}) == GR_OK, "init");
    CHECK(gr_params_trainable(ps) == N && gr_params_total(ps) == N + 4 && !ps->p[2].grad.data, "what is trained");
    for (int i = 0; i < N; i++)
        p[i] = i < 15 ? ((float *)ps->p[0].value.data)[i] : ((float *)ps->p[1].value.data)[i - 15];
    const float frozen = *(float *)ps->p[2].value.data;

    for (int t = 0; t < 7; t++) {
        const double lr = 0.01 * (t + 1), scale = 0.25;
        double       g[N], norm2 = 0;

        for (int i = 0; i < N; i++) {
            const float x = 3.0f * gr_normal(9, (uint64_t)t, (uint64_t)i);
            *(i < 15 ? (float *)ps->p[0].grad.data + i : (float *)ps->p[1].grad.data + i - 15) = x;
            g[i] = scale * x;
            norm2 += g[i] * g[i];
        }
        const double norm = gr_grad_norm(ps, gr_view1(&sum, GR_F64, 1), scale);
        CHECK(fabs(norm / sqrt(norm2) - 1) < 1e-6, "norm %g, expected %g", norm, sqrt(norm2));
        gr_adamw_step(ps, &cfg, lr, t, scale, norm);
        for (int i = 0; i < N; i++) { /* docs/math.md 9.4 */
            const double gi = g[i] * (clip > 0 && norm > clip ? clip / (norm + 1e-6) : 1);
            m[i] = 0.9 * m[i] + 0.1 * gi;
            v[i] = 0.95 * v[i] + 0.05 * gi * gi;
            p[i] *= 1 - lr * (i < 15 ? 0.1 : 0);
            p[i] -= lr / (1 - pow(0.9, t + 1)) * m[i] / (sqrt(v[i]) / sqrt(1 - pow(0.95, t + 1)) + 1e-8);
        }
    }
    /* fp32 state against fp64 over 7 steps: some 2^-24 per operation */
    CHECK_REL(ps->p[0].value.data, p, 15, 2e-6, "matrix");
    CHECK_REL(ps->p[1].value.data, p + 15, 7, 2e-6, "norm weight, which must not decay");
    CHECK(*(float *)ps->p[2].value.data == frozen, "a frozen parameter moved");
    gr_params_close(&ps);
}

int main(void)
{
    gr_params *ps = NULL;

    check_schedules();
    check_adamw(0);
    check_adamw(0.5);
    CHECK(gr_params_open(&ps, &gr_ops_cpu) == GR_OK, "open");
    const gr_param_spec one = {"w", 1, {3, 1, 1}, GR_INIT_ONE, true};
    CHECK(gr_params_add(ps, &one, "", -1, NULL) == GR_OK, "add");
    CHECK(gr_params_train_only(ps, "nothing*") == GR_ERR_CONFIG, "a glob that matches nothing");
    gr_params_close(&ps);
    return check_result();
}
