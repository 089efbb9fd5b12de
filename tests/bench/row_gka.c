/* The core of Gated KalmaNet, 30 iterations, without projections, against the speed of multiplication.
 *
 *     row_gka T
 */
/*ROW
id: C6
title: gka-core: B 1, 16 heads of 128, chunks of 64, 30 iterations, fp32
unit: ms
ceiling: fma 2
case: T=2048 | 2048 | threads=2
peer: peer_gka.py
bar: * | ceiling | 0.55 | 0.80
*/
#include "mixers/registry.h"
#include "tests/bench/core.h"

enum { HEADS = 16, D = 128, CHUNK = 64, ITERATIONS = 30, CHECKED = 5 /* head that is compared */ };

static const double RIDGE = 0.02;

static const gr_mixer_spec spec = {.hidden = HEADS * D,
                                   .n_head = HEADS,
                                   .n_kv_head = HEADS,
                                   .head_dim = D,
                                   .conv_width = 4,
                                   .chunk = CHUNK,
                                   .gka_iterations = ITERATIONS,
                                   .gka_alpha = true};

static void fill(core_problem *p)
{
    for (int s = 0; s < CORE_SETS; s++) {
        gr_core_args *a = &p->set[s];
        float        *x[2] = {a->q.data, a->k.data};

        a->iterations = ITERATIONS;
        a->ridge = (float)RIDGE;
        a->aux = core_take(p->n, HEADS, D);
        bench_fill(a->gate[0].data, gr_count(a->gate[0]), 16 * (uint64_t)s + 4, -0.1f, 0);
        bench_fill(a->gate[1].data, gr_count(a->gate[1]), 16 * (uint64_t)s + 5, 0.1f, 0.9f);
        bench_fill(a->gate[2].data, gr_count(a->gate[2]), 16 * (uint64_t)s + 6, 0.1f, 0.9f);
        for (int j = 0; j < 2; j++) /* unit rows, as the layer makes them */
            for (int64_t i = 0; i < (int64_t)p->n * HEADS; i++) {
                double sum = 0;

                for (int d = 0; d < D; d++) sum += (double)x[j][i * D + d] * x[j][i * D + d];
                for (int d = 0; d < D; d++) x[j][i * D + d] = (float)(x[j][i * D + d] / sqrt(sum));
            }
    }
}

/* One head's inputs, in fp64. */
enum { PARTS = 6 };
typedef struct inputs {
    double *part[PARTS]; /* q, k, v [n, D]; g, beta, alpha [n] */
} inputs;
static const char *const part_name[PARTS] = {"dq", "dk", "dv", "dg", "dbeta", "dalpha"};

/* dk, dg and dbeta take the iteration for the solution: docs/math.md 3.3 and 3.5. */
static const double part_tolerance[PARTS] = {1e-4, 3e-2, 1e-4, 3e-2, 3e-2, 1e-4};

static int64_t part_width(int j)
{
    return j < 3 ? D : 1;
}

static double *column(const float *x, int64_t n, int64_t width)
{
    double *y = bench_memory((uint64_t)(n * width), sizeof *y);

    for (int64_t t = 0; t < n; t++)
        for (int64_t d = 0; d < width; d++) y[t * width + d] = x[(t * HEADS + CHECKED) * width + d];
    return y;
}

static double inner(const double *a, const double *b, int64_t n)
{
    double s = 0;

#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

/* x = (H + RIDGE |H| I)^-1 b, as far as ITERATIONS go. */
static void solve(const double *H, const double *b, double *x)
{
    const double F = sqrt(inner(H, H, D * D)), r = 1 / (1 + 2 * RIDGE), eta = 2 * r / F;
    double       omega = 2, before[D] = {0}, next[D];

    for (int i = 0; i < D; i++) x[i] = eta * b[i];
    for (int n = 0; n < ITERATIONS; n++) {
        omega = 1 / (1 - r * r / 4 * omega);
        for (int i = 0; i < D; i++)
            next[i] = omega * (r * x[i] - eta * (inner(H + i * D, x, D) - b[i])) + (1 - omega) * before[i];
        memcpy(before, x, sizeof before);
        memcpy(x, next, sizeof next);
    }
}

/* The recurrence, token by token; o [n, D]. */
static void recurrence(double *o, const inputs *x, int64_t n, double scale)
{
    double *S = bench_memory(D * D, sizeof *S), *H = bench_memory(D * D, sizeof *H), q[D];

    for (int64_t t = 0; t < n; t++) {
        const double *qt = x->part[0] + t * D, *k = x->part[1] + t * D, *v = x->part[2] + t * D;
        const double  fade = exp(x->part[3][t]), b = x->part[4][t] + 1e-6, a = x->part[5][t];

        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++) {
                S[i * D + j] = fade * S[i * D + j] + b * b * k[i] * v[j];
                H[i * D + j] = fade * H[i * D + j] + b * b * k[i] * k[j];
            }
        solve(H, qt, q);
        for (int j = 0; j < D; j++) o[t * D + j] = 0;
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++) o[t * D + j] += scale * (qt[i] + a * (q[i] - qt[i])) * S[i * D + j];
    }
    gr_free(&S);
    gr_free(&H);
}

/* <d_o, o> at x + step * direction, where the direction moves one part only. */
static double moved(const inputs *x, int part, const double *direction, double step, const double *d_o, int64_t n,
                    double scale)
{
    const int64_t size = n * part_width(part);
    double       *o = bench_memory((uint64_t)(n * D), sizeof *o), *p = x->part[part], value;
    double       *old = bench_memory((uint64_t)size, sizeof *old);

    memcpy(old, p, (size_t)size * sizeof *p);
    for (int64_t i = 0; i < size; i++) p[i] = old[i] + step * direction[i];
    recurrence(o, x, n, scale);
    value = inner(o, d_o, n * D);
    memcpy(p, old, (size_t)size * sizeof *p);
    gr_free(&old);
    gr_free(&o);
    return value;
}

/* Forward: one whole head against the recurrence. Backward: each gradient of that head along a random direction of
 * signs against a central difference of the recurrence; over the norm of the gradient, which is what such a sum amounts
 * to. */
static gr_status check(void *user)
{
    const core_problem *p = user;
    const gr_core_args *a = &p->set[p->last];
    const int64_t       n = p->n;
    const double        scale = (double)a->scale, step = 1e-5;
    const float *const in[PARTS] = {a->q.data, a->k.data, a->v.data, a->gate[0].data, a->gate[1].data, a->gate[2].data};
    const float *const grad[PARTS] = {a->dq.data,       a->dk.data,       a->dv.data,
                                      a->dgate[0].data, a->dgate[1].data, a->dgate[2].data};
    double            *o = bench_memory((uint64_t)(n * D), sizeof *o), *got = column(a->o.data, n, D);
    double            *d_o = column(a->d_o.data, n, D), err = 0, top = 0;
    inputs             x;

    for (int j = 0; j < PARTS; j++) x.part[j] = column(in[j], n, part_width(j));
    recurrence(o, &x, n, scale);
    for (int64_t i = 0; i < n * D; i++) {
        err = fmax(err, fabs(o[i] - got[i]));
        top = fmax(top, fabs(o[i]));
    }
    bench_error("o", err / top, p->core->tol);
    for (int j = 0; j < PARTS; j++) {
        const int64_t size = n * part_width(j);
        double       *g = column(grad[j], n, part_width(j)), *sign = bench_memory((uint64_t)size, sizeof *sign), back;

        for (int64_t i = 0; i < size; i++) sign[i] = bench_uniform(64 + (uint64_t)j, (uint64_t)i, -1, 1) < 0 ? -1 : 1;
        back = (moved(&x, j, sign, step, d_o, n, scale) - moved(&x, j, sign, -step, d_o, n, scale)) / (2 * step);
        bench_error(part_name[j], fabs(inner(g, sign, size) - back) / sqrt(inner(g, g, size)), part_tolerance[j]);
        gr_free(&g);
        gr_free(&sign);
    }
    return GR_OK;
}

int main(int argc, char **argv)
{
    core_problem    p = {0};
    const gr_ops   *ops = NULL;
    const gr_mixer *mixer = gr_mixer_find("gka");
    gr_mixer_cost   cost;
    char            note[160];
    gr_status       st = GR_OK;

    if (argc != 2) return 2;
    GR_TRY(bench_backend(&ops, note, sizeof note));
    GR_TRY(gr_arena_open(&p.scratch, ops, "scratch"));
    bench_name("graft, own kernels");
    p.core = gr_mixer_core_of(mixer, ops);
    core_open(&p, (int)strtol(argv[1], NULL, 10), HEADS, HEADS, D, 3, false);
    fill(&p);
    cost = mixer->def->cost(&spec, p.n); /* products of [C, C] in full: what is known to be zero is not computed */
    p.flop = (double)p.n * cost.core_forward;
    p.flop_both = (double)p.n * (cost.core_forward + cost.core_backward);
    st = bench_serve(&(bench){.run = core_run, .check = check, .user = &p});
out:
    return gr_exit_code(st);
}
