/* The core of Gated DeltaNet, without projections, against transformers' chunked fallback.
 *
 *     row_gdn T
 */
/*ROW
id: C4
title: gdn-core: B 1, 16 heads of 128, chunks of 64, fp32
unit: ms
ceiling: fma 2
case: T=2048 | 2048 | threads=2
case: T=8192 | 8192 | threads=2
peer: peer_gdn.py
bar: T=2048 fwd | peer | 4 | 6
bar: T=2048 fwd+bwd | peer | 5 | 9
bar: T=8192 fwd | peer | 6 | 10
bar: T=8192 fwd+bwd | peer | 15 | 30
*/
#include "mixers/registry.h"
#include "tests/bench/core.h"

enum { HEADS = 16, D = 128, CHUNK = 64, CHECKED = 5 /* head that is compared */ };

/* Products of a chunk, per head and token: K K^T and Q K^T, the solve, P V, and Q S, K S, K^T U against the state;
 * backward costs about 2.8 times that. Multiply and add are two. */
static double flops(int n)
{
    return (double)n * HEADS * (2.0 * 2 * CHUNK * D + 1.0 * CHUNK * CHUNK + 2.0 * 2 * CHUNK * D + 3 * 2.0 * D * D);
}

static void fill_gates(core_problem *p)
{
    for (int s = 0; s < CORE_SETS; s++) {
        const gr_core_args *a = &p->set[s];
        float              *x[2] = {a->q.data, a->k.data};

        bench_fill(a->gate[0].data, gr_count(a->gate[0]), 16 * (uint64_t)s + 4, -0.1f, 0);
        bench_fill(a->gate[1].data, gr_count(a->gate[1]), 16 * (uint64_t)s + 5, 0, 1);
        for (int j = 0; j < 2; j++) /* unit rows, as the layer makes them */
            for (int64_t i = 0; i < (int64_t)p->n * HEADS; i++) {
                double sum = 0;

                for (int d = 0; d < D; d++) sum += (double)x[j][i * D + d] * x[j][i * D + d];
                for (int d = 0; d < D; d++) x[j][i * D + d] = (float)(x[j][i * D + d] / sqrt(sum));
            }
    }
}

/* One head's inputs, in fp64. */
typedef struct inputs {
    double *q, *k, *v, *g, *b; /* [n, D] thrice, [n] twice */
} inputs;

enum { PARTS = 5 };
static const char *const part_name[PARTS] = {"dq", "dk", "dv", "dg", "dbeta"};

static double *part_of(const inputs *x, int j)
{
    double *const p[PARTS] = {x->q, x->k, x->v, x->g, x->b};
    return p[j];
}

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

/* The recurrence, token by token; o [n, D]. */
static void recurrence(double *o, const inputs *x, int64_t n, double scale)
{
    double *S = bench_memory(D * D, sizeof *S), e[D];

    for (int64_t t = 0; t < n; t++) {
        const double *q = x->q + t * D, *k = x->k + t * D, *v = x->v + t * D, fade = exp(x->g[t]);

        for (int j = 0; j < D; j++) e[j] = v[j];
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++) {
                S[i * D + j] *= fade;
                e[j] -= k[i] * S[i * D + j];
            }
        for (int j = 0; j < D; j++) o[t * D + j] = 0;
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++) {
                S[i * D + j] += x->b[t] * k[i] * e[j];
                o[t * D + j] += scale * q[i] * S[i * D + j];
            }
    }
    gr_free(&S);
}

static double inner(const double *a, const double *b, int64_t n)
{
    double s = 0;

    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

/* <d_o, o> at x + step * direction, where the direction moves one part only. */
static double moved(const inputs *x, int part, const double *direction, double step, const double *d_o, int64_t n,
                    double scale)
{
    const int64_t size = n * part_width(part);
    double       *o = bench_memory((uint64_t)(n * D), sizeof *o), *p = part_of(x, part), value;
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
    const float *const  grad[PARTS] = {a->dq.data, a->dk.data, a->dv.data, a->dgate[0].data, a->dgate[1].data};
    const inputs        x = {column(a->q.data, n, D), column(a->k.data, n, D), column(a->v.data, n, D),
                             column(a->gate[0].data, n, 1), column(a->gate[1].data, n, 1)};
    double             *o = bench_memory((uint64_t)(n * D), sizeof *o), *got = column(a->o.data, n, D);
    double             *d_o = column(a->d_o.data, n, D), err = 0, top = 0, back[PARTS];

    recurrence(o, &x, n, (double)a->scale);
    for (int64_t i = 0; i < n * D; i++) {
        err = fmax(err, fabs(o[i] - got[i]));
        top = fmax(top, fabs(o[i]));
    }
    bench_error("o", err / top, p->core->tol);
    for (int j = 0; j < PARTS; j++) {
        const int64_t size = n * part_width(j);
        double       *g = column(grad[j], n, part_width(j)), *sign = bench_memory((uint64_t)size, sizeof *sign);
        const double  step = 1e-5;

        for (int64_t i = 0; i < size; i++) sign[i] = bench_uniform(64 + (uint64_t)j, (uint64_t)i, -1, 1) < 0 ? -1 : 1;
        back[j] =
            (moved(&x, j, sign, step, d_o, n, (double)a->scale) - moved(&x, j, sign, -step, d_o, n, (double)a->scale)) /
            (2 * step);
        bench_error(part_name[j], fabs(inner(g, sign, size) - back[j]) / sqrt(inner(g, g, size)), 1e-4);
        gr_free(&g);
        gr_free(&sign);
    }
    return GR_OK;
}

int main(int argc, char **argv)
{
    core_problem  p = {0};
    const gr_ops *ops = NULL;
    char          note[160];
    gr_status     st = GR_OK;

    if (argc != 2) return 2;
    GR_TRY(bench_backend(&ops, note, sizeof note));
    GR_TRY(gr_arena_open(&p.scratch, ops, "scratch"));
    bench_name("graft, own kernels");
    p.core = gr_mixer_core_of(gr_mixer_find("gdn"), ops);
    core_open(&p, (int)strtol(argv[1], NULL, 10), HEADS, HEADS, D, 2, false);
    fill_gates(&p);
    p.flop = flops(p.n);
    p.flop_both = 3.8 * flops(p.n);
    st = bench_serve(&(bench){.run = core_run, .check = check, .user = &p});
out:
    return gr_exit_code(st);
}
