/* Causal softmax attention, without projections, against torch's scaled_dot_product_attention.
 *
 *     row_attention T KV_HEADS
 */
/*ROW
id: C8
title: attention: 16 heads of 128, causal, fp32
unit: ms
ceiling: fma 2
for: kv 16 8
for: T 2048 4096 8192
case: 16/$kv T=$T | $T $kv | threads=2
peer: peer_attention.py
bar: * | peer | 0.90 | 1.20
*/
#include "mixers/registry.h"
#include "tests/bench/core.h"

enum { HEADS = 16, D = 128, CHECKED = 5 /* query head that is compared */ };

/* What is needed of one query head in fp64: its rows, its key head's rows, and per query the log-sum-exp and
 * <d_o, o> that a gradient wants. */
typedef struct truth {
    int64_t      n, q_row, kv_row;
    double       scale, *lse, *delta; /* [n] */
    const float *q, *k, *v, *o, *d_o;
} truth;

static double dot(const float *a, const float *b)
{
    double s = 0;

    for (int d = 0; d < D; d++) s += (double)a[d] * b[d];
    return s;
}

static truth truth_of(const gr_core_args *a, int64_t n, int head)
{
    const int kv = head / (a->n_head / a->n_kv_head);
    truth     t = {
            n,   (int64_t)a->n_head * D, (int64_t)a->n_kv_head * D, (double)a->scale, NULL, NULL, NULL, NULL, NULL, NULL,
            NULL};

    t.q = (float *)a->q.data + head * D;
    t.o = (float *)a->o.data + head * D;
    t.d_o = (float *)a->d_o.data + head * D;
    t.k = (float *)a->k.data + kv * D;
    t.v = (float *)a->v.data + kv * D;
    t.lse = bench_memory((uint64_t)n, sizeof *t.lse);
    t.delta = bench_memory((uint64_t)n, sizeof *t.delta);
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < n; i++) {
        double top = -INFINITY, sum = 0, delta = 0;

        for (int64_t j = 0; j <= i; j++) {
            const double s = t.scale * dot(t.q + i * t.q_row, t.k + j * t.kv_row),
                         u = dot(t.d_o + i * t.q_row, t.v + j * t.kv_row);
            const double now = fmax(top, s), old = exp(top - now), p = exp(s - now);

            sum = sum * old + p;
            delta = delta * old + p * u;
            top = now;
        }
        t.lse[i] = top + log(sum);
        t.delta[i] = delta / sum;
    }
    return t;
}

typedef struct worst {
    double err, top;
} worst;

static void compare(worst *w, const float *got, const double *want)
{
    for (int d = 0; d < D; d++) {
        const double e = fabs((double)got[d] - want[d]);

        w->err = e < INFINITY ? fmax(w->err, e) : INFINITY;
        w->top = fmax(w->top, fabs(want[d]));
    }
}

/* Row i of o and dq. */
static void query_row(const truth *t, int64_t i, double o[D], double dq[D])
{
    memset(o, 0, D * sizeof *o);
    memset(dq, 0, D * sizeof *dq);
    for (int64_t j = 0; j <= i; j++) {
        const float *k = t->k + j * t->kv_row, *v = t->v + j * t->kv_row;
        const double p = exp(t->scale * dot(t->q + i * t->q_row, k) - t->lse[i]);
        const double ds = t->scale * p * (dot(t->d_o + i * t->q_row, v) - t->delta[i]);

        for (int d = 0; d < D; d++) {
            o[d] += p * (double)v[d];
            dq[d] += ds * (double)k[d];
        }
    }
}

/* What one query head adds to row j of dk and dv. */
static void key_row(const truth *t, int64_t j, double dk[D], double dv[D])
{
    const float *k = t->k + j * t->kv_row, *v = t->v + j * t->kv_row;

    for (int64_t i = j; i < t->n; i++) {
        const float *q = t->q + i * t->q_row, *d_o = t->d_o + i * t->q_row;
        const double p = exp(t->scale * dot(q, k) - t->lse[i]), ds = t->scale * p * (dot(d_o, v) - t->delta[i]);

        for (int d = 0; d < D; d++) {
            dk[d] += ds * (double)q[d];
            dv[d] += p * (double)d_o[d];
        }
    }
}

/* Sixteen rows of each output, wherever they fall, by the definition. */
static gr_status check(void *user)
{
    const core_problem *p = user;
    const gr_core_args *a = &p->set[p->last];
    const int           group = a->n_head / a->n_kv_head, kv = CHECKED / group;
    const int64_t       q_row = (int64_t)a->n_head * D, kv_row = (int64_t)a->n_kv_head * D;
    truth               t[HEADS];
    worst               w[4] = {{0}};

    for (int h = 0; h < group; h++) t[h] = truth_of(a, p->n, kv * group + h);
    for (int r = 0; r < 16; r++) {
        const int64_t i = (int64_t)(bench_uniform(9, (uint64_t)r, 0, 1) * (float)p->n);
        const int     at = CHECKED % group;
        double        o[D], dq[D], dk[D] = {0}, dv[D] = {0};

        query_row(&t[at], i, o, dq);
        for (int h = 0; h < group; h++) key_row(&t[h], i, dk, dv);
        compare(&w[0], (float *)a->o.data + i * q_row + CHECKED * D, o);
        compare(&w[1], (float *)a->dq.data + i * q_row + CHECKED * D, dq);
        compare(&w[2], (float *)a->dk.data + i * kv_row + kv * D, dk);
        compare(&w[3], (float *)a->dv.data + i * kv_row + kv * D, dv);
    }
    for (int j = 0; j < 4; j++)
        bench_error((const char *[]){"o", "dq", "dk", "dv"}[j], w[j].err / w[j].top, p->core->tol);
    return GR_OK;
}

int main(int argc, char **argv)
{
    core_problem  p = {0};
    const gr_ops *ops = NULL;
    char          note[160];
    gr_status     st = GR_OK;

    if (argc != 3) return 2;
    GR_TRY(bench_backend(&ops, note, sizeof note));
    GR_TRY(gr_arena_open(&p.scratch, ops, "scratch"));
    bench_name("graft, own kernels");
    p.core = gr_mixer_core_of(gr_mixer_attention(), ops);
    core_open(&p, (int)strtol(argv[1], NULL, 10), HEADS, (int)strtol(argv[2], NULL, 10), D, 0, true);
    p.flop = 4.0 * HEADS * D * 0.5 * (double)p.n * (double)p.n; /* q k^T and p v, half of them masked */
    p.flop_both = 3.5 * p.flop;                                 /* and five products back             */
    st = bench_serve(&(bench){.run = core_run, .check = check, .user = &p});
out:
    return gr_exit_code(st);
}
