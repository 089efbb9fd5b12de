/* One AdamW update of a 135 M parameter model through the optimiser's room: 28 bytes a parameter.  */
/*ROW
id: C25
title: adamw: 135 M parameters in 272 tensors, 28 bytes each
unit: GB/s
ceiling: stream 2
case: 135M | | threads=2 repeats=15
peer: peer_adamw.py
bar: * | ceiling | 0.85 | 1.0
*/
#include "optim/optim.h"
#include "tests/bench/shapes.h"

enum { CHECKED = 4096 }; /* elements compared, spread over the largest tensor */

static const gr_cfg_optim optim = {
    .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};

typedef struct adam {
    gr_params *ps;
    int64_t    t;
} adam;

static gr_status run(void *user)
{
    adam        *a = user;
    const double t0 = gr_now();

    gr_adamw_step(a->ps, &optim, optim.lr, a->t++, 0.5, 0.25); /* gradients times 0.5; nothing clipped */
    bench_time("step", gr_now() - t0, 28.0 * (double)gr_params_total(a->ps), 0);
    return GR_OK;
}

/* One more step, some elements of which are computed in fp64 from what stood there before. */
static gr_status check(void *user)
{
    gr_status     st = GR_OK;
    adam         *a = user;
    gr_param     *p = &a->ps->p[0];
    const float  *w = p->value.data, *m = p->m.data, *v = p->v.data, *g = p->grad.data;
    const int64_t stride = gr_count(p->value) / CHECKED;
    double        want[CHECKED], err = 0;
    float         before[CHECKED];

    for (int i = 0; i < CHECKED; i++) {
        const int64_t j = i * stride;
        const double  gj = 0.5 * (double)g[j], mj = optim.beta1 * (double)m[j] + (1 - optim.beta1) * gj;
        const double  vj = optim.beta2 * (double)v[j] + (1 - optim.beta2) * gj * gj, t = (double)(a->t + 1);

        before[i] = w[j];
        want[i] = (1 - optim.lr * optim.weight_decay) * (double)w[j] -
                  optim.lr * mj / (1 - pow(optim.beta1, t)) / (sqrt(vj / (1 - pow(optim.beta2, t))) + optim.eps);
    }
    GR_TRY(run(user));
    for (int i = 0; i < CHECKED; i++) err = fmax(err, fabs((double)w[i * stride] - want[i]) / optim.lr);
    bench_error("w", memcmp(before, w, sizeof(float)) ? err : INFINITY, 1e-3); /* of a step; w itself rounds at 1e-4 */
out:
    return st;
}

int main(int argc, char **argv)
{
    gr_model     *m = NULL;
    const gr_ops *ops = NULL;
    adam          a = {0};
    char          note[160];
    gr_status     st = GR_OK;

    (void)argv;
    if (argc != 1) return 2;
    GR_TRY(bench_backend(&ops, note, sizeof note));
    bench_name("graft");
    GR_TRY(shape_open(&m, ops, "smollm2"));
    a.ps = m->params;
    for (int64_t u = 0; u < a.ps->n_unit; u++) bench_fill(a.ps->unit[u].grad.data, a.ps->unit[u].n, (uint64_t)u, -1, 1);
    st = bench_serve(&(bench){.run = run, .check = check, .user = &a});
out:
    return gr_exit_code(st);
}
