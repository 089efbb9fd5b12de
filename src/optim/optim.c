#include "optim/optim.h"
#include <math.h>
#include <string.h>

/* Falling from 1 to min_ratio as x goes from 0 to 1. */
static double falling(const char *kind, double x, double min_ratio)
{
    const double shape = strcmp(kind, "cosine") == 0 ? 0.5 * (1.0 + cos(3.14159265358979323846 * x)) : 1.0 - x;

    return min_ratio + (1.0 - min_ratio) * shape;
}

double gr_learning_rate(const gr_cfg_optim *optim, const gr_cfg_schedule *schedule, int64_t t, int64_t steps)
{
    const int64_t warmup = schedule->warmup < steps ? schedule->warmup : steps;
    int64_t       begin = warmup; /* of the fall */

    if (t < warmup) return optim->lr * (double)(t + 1) / (double)warmup;
    if (!strcmp(schedule->kind, "constant")) return optim->lr;
    if (!strcmp(schedule->kind, "wsd")) {
        const int64_t decay = schedule->decay ? schedule->decay : steps / 5;
        begin = steps - decay > warmup ? steps - decay : warmup;
        if (t < begin) return optim->lr;
    }
    return optim->lr * falling(schedule->kind, (double)(t - begin + 1) / (double)(steps - begin), schedule->min_ratio);
}

double gr_grad_norm(const gr_params *ps, gr_tensor sum, double grad_scale)
{
    double total = 0;

    ps->ops->zero(sum, NULL);
    for (int64_t i = 0; i < ps->n_unit; i++)
        if (ps->unit[i].grad.data) ps->ops->sumsq(sum, ps->unit[i].grad, NULL);
    ps->ops->copy(&total, sum.data, sizeof total, GR_TO_HOST, NULL);
    return sqrt(total) * grad_scale;
}

void gr_adamw_step(gr_params *ps, const gr_cfg_optim *optim, double lr, int64_t t, double grad_scale, double grad_norm)
{
    const double clip = optim->clip > 0 && grad_norm > optim->clip ? optim->clip / (grad_norm + 1e-6) : 1.0;
    gr_adamw     h = {.lr = (float)lr,
                      .beta1 = (float)optim->beta1,
                      .beta2 = (float)optim->beta2,
                      .eps = (float)optim->eps,
                      .grad_scale = (float)(grad_scale * clip),
                      .bias1 = (float)(1.0 - pow(optim->beta1, (double)(t + 1))),
                      .bias2 = (float)(1.0 - pow(optim->beta2, (double)(t + 1)))};

    for (int64_t i = 0; i < ps->n; i++) {
        const gr_param *p = &ps->p[i];
        if (!p->grad.data) continue;
        h.weight_decay = p->decay ? (float)optim->weight_decay : 0.0f;
        ps->ops->adamw(p->value, p->m, p->v, p->grad, &h, NULL);
    }
}
