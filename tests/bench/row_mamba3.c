/* The core of Mamba-3, SISO and MIMO, from normalised B and C to what out_proj reads, against the speed of
 * multiplication. Its bytes, 7 KB per token and head with both directions, are a third of that time at most.
 *
 *     row_mamba3 T R
 */
/*ROW
id: C7
title: mamba3-core: B 1, 32 heads in 8 groups, state 128 x 64, chunks of 64 rows, fp32
unit: ms
ceiling: fma 2
case: SISO T=2048 | 2048 1 | threads=2
case: MIMO 4 T=2048 | 2048 4 | threads=2
bar: * | ceiling | 0.45 | 0.70
*/
#include "mixers/registry.h"
#include "tests/bench/core.h"

enum { HEADS = 32, GROUPS = 8, K = 128, P = 64, CHUNK = 64, ANGLES = 32, CHECKED = 5 /* head that is compared */ };

/* Of `more`, as kernels/cpu/mixer_mamba3.c declares it. */
enum { LOGITS, Z, DT_B, B_B, C_B, SKIP, M_X, M_Z, M_O };

/* Products of matrices per head and row: with the chunk's other rows, and with the state. Multiply and add are two. */
static double flops(const core_problem *p, int R, bool both)
{
    const double fwd = 2.0 * CHUNK * (K + P) + 4.0 * K * P, bwd = 2.0 * CHUNK * (3 * K + 2 * P) + 10.0 * K * P;

    return (double)p->n * R * HEADS * (fwd + (both ? bwd : 0));
}

static gr_tensor filled(int64_t a, int64_t b, int64_t c, int stream, float low, float high)
{
    const gr_tensor t = core_take(a, b, c);

    bench_fill(t.data, gr_count(t), (uint64_t)stream, low, high);
    return t;
}

static void open_set(core_problem *p, gr_core_args *a, int R, int s)
{
    const int64_t n = p->n, row = 3 * HEADS + ANGLES;

    *a = (gr_core_args){.seq = &p->seq,
                        .n_head = HEADS,
                        .n_kv_head = GROUPS,
                        .k_dim = K,
                        .v_dim = P,
                        .chunk = CHUNK,
                        .n_row = R,
                        .scale = 1,
                        .scratch = p->scratch};
    a->q = filled(n * R, HEADS, K, s, -1.7f, 1.7f), a->dq = core_take(n * R, HEADS, K); /* variance 1 */
    a->k = filled(n * R, GROUPS, K, s + 1, -1.7f, 1.7f), a->dk = core_take(n * R, GROUPS, K);
    a->v = filled(n, GROUPS, P, s + 2, -1.7f, 1.7f), a->dv = core_take(n, GROUPS, P);
    a->o = core_take(n, HEADS, P), a->d_o = filled(n, HEADS, P, s + 3, -1.7f, 1.7f);
    a->aux = core_take(n * R, HEADS, P);
    a->more[LOGITS] = gr_as2(filled(n, 1, row, s + 4, -1, 1), n, row);
    a->more[Z] = filled(n, HEADS, P, s + 5, -1.7f, 1.7f);
    a->more[DT_B] = filled(1, 1, HEADS, s + 6, -4, -2);
    a->more[B_B] = filled(HEADS, R, K, s + 7, -0.1f, 0.1f), a->more[C_B] = filled(HEADS, R, K, s + 8, -0.1f, 0.1f);
    a->more[SKIP] = filled(1, 1, HEADS, s + 9, 0.9f, 1.1f);
    for (int i = M_X; i <= M_O && R > 1; i++) a->more[i] = filled(HEADS, R, P, s + 10 + i - M_X, 0.2f, 0.3f);
    for (int i = LOGITS; i <= M_O; i++) {
        a->dmore[i] = a->more[i];
        if (a->more[i].data) a->dmore[i].data = bench_floats(gr_count(a->more[i]));
    }
}

static double of(gr_tensor t, int64_t row, int64_t i)
{
    return (double)((const float *)t.data)[row * gr_row(t) + i];
}

/* Row r of token t of q or k of the head that is compared, turned by phi: (2i, 2i + 1) with one row, else (i, i + K/2).
 */
static void turned(double *y, gr_tensor x, gr_tensor bias, int head, int64_t t, int r, int R, const double *phi)
{
    for (int i = 0; i < K; i++) y[i] = of(x, t * R + r, (int64_t)head * K + i) + of(bias, CHECKED, (int64_t)r * K + i);
    for (int i = 0; i < ANGLES; i++) {
        const int    a = R == 1 ? 2 * i : i, b = R == 1 ? 2 * i + 1 : i + K / 2;
        const double ya = y[a], yb = y[b];

        y[a] = ya * cos(phi[i]) - yb * sin(phi[i]);
        y[b] = ya * sin(phi[i]) + yb * cos(phi[i]);
    }
}

/* What the recurrence returns for one head, token by token; o [n R, P]. */
static void recurrence(double *o, const gr_core_args *a, int64_t n, int R)
{
    const int g = CHECKED / (HEADS / GROUPS);
    double   *S = bench_memory((uint64_t)K * P, sizeof *S), *k = bench_memory(2 * (uint64_t)R * K, sizeof *k);
    double   *v = bench_memory(2 * (uint64_t)R * P, sizeof *v), phi[ANGLES] = {0}, q[K];

    for (int64_t t = 0; t < n; t++) {
        double *k1 = k + t % 2 * R * K, *v1 = v + t % 2 * R * P, *k0 = k + (t + 1) % 2 * R * K,
               *v0 = v + (t + 1) % 2 * R * P;
        const double dt = log1p(exp(of(a->more[LOGITS], t, CHECKED) + of(a->more[DT_B], 0, CHECKED)));
        const double f = of(a->more[LOGITS], t, HEADS + CHECKED), fade = exp(-dt * (f >= 0 ? 1 + f : 1 / (1 - f)));
        const double tau = 1 / (1 + exp(-of(a->more[LOGITS], t, 2 * HEADS + CHECKED)));

        for (int i = 0; i < ANGLES; i++) phi[i] += M_PI * tanh(of(a->more[LOGITS], t, 3 * HEADS + i)) * dt;
        for (int r = 0; r < R; r++) {
            turned(k1 + r * K, a->k, a->more[B_B], g, t, r, R, phi);
            for (int j = 0; j < P; j++)
                v1[r * P + j] =
                    of(a->v, t, (int64_t)g * P + j) * (R > 1 ? of(a->more[M_X], CHECKED, (int64_t)r * P + j) : 1);
        }
        for (int i = 0; i < K * P; i++) {
            S[i] *= fade;
            for (int r = 0; r < R; r++)
                S[i] += (1 - tau) * dt * fade * k0[r * K + i / P] * v0[r * P + i % P] +
                        tau * dt * k1[r * K + i / P] * v1[r * P + i % P];
        }
        for (int r = 0; r < R; r++) {
            double *out = o + (t * R + r) * P;

            turned(q, a->q, a->more[C_B], CHECKED, t, r, R, phi);
            for (int j = 0; j < P; j++) out[j] = of(a->more[SKIP], 0, CHECKED) * v1[r * P + j];
            for (int i = 0; i < K * P; i++) out[i % P] += q[i / P] * S[i];
        }
    }
    gr_free(&S), gr_free(&k), gr_free(&v);
}

/* Forward: one whole head. Gradients are the business of tests/unit/test_mixer_mamba3.c; here they must be finite. */
static gr_status check(void *user)
{
    const core_problem *p = user;
    const gr_core_args *a = &p->set[p->last];
    const int           R = a->n_row;
    double             *o = bench_memory((uint64_t)p->n * (uint64_t)R * P, sizeof *o), err = 0, top = 0, sum = 0;

    recurrence(o, a, p->n, R);
    for (int64_t i = 0; i < (int64_t)p->n * R * P; i++) {
        err = fmax(err, fabs(o[i] - of(a->aux, i / P, CHECKED * P + i % P)));
        top = fmax(top, fabs(o[i]));
    }
    for (int64_t i = 0; i < gr_count(a->dq); i++) sum += fabs(of(a->dq, i / gr_row(a->dq), i % gr_row(a->dq)));
    bench_error("o", err / top, p->core->tol);
    bench_error("dq", isfinite(sum) && sum > 0 ? 0 : 1, 0);
    gr_free(&o);
    return GR_OK;
}

int main(int argc, char **argv)
{
    core_problem  p = {0};
    const gr_ops *ops = NULL;
    char          note[160];
    gr_status     st = GR_OK;
    int           R;

    if (argc != 3) return 2;
    R = (int)strtol(argv[2], NULL, 10);
    GR_TRY(bench_backend(&ops, note, sizeof note));
    GR_TRY(gr_arena_open(&p.scratch, ops, "scratch"));
    bench_name("graft, own kernels");
    p.core = gr_mixer_core_of(gr_mixer_find("mamba3"), ops);
    p.n = (int)strtol(argv[1], NULL, 10);
    p.doc[1] = p.n;
    p.seq = (gr_seq){.n = p.n, .n_doc = 1, .doc = p.doc};
    for (int s = 0; s < CORE_SETS; s++) open_set(&p, &p.set[s], R, 16 * s);
    p.flop = flops(&p, R, false);
    p.flop_both = flops(&p, R, true);
    st = bench_serve(&(bench){.run = core_run, .check = check, .user = &p});
out:
    return gr_exit_code(st);
}
