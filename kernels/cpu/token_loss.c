/* Losses over the vocabulary: docs/math.md 9.1.  z, a tile of logits [n, V]; q, the student's probabilities; p, the
 * teacher's.
 *
 * One row (200 KB at V = 49152) stays in the L2 cache of the thread that works on it, so passes over it are cheap.
 * The sum over "all tokens but the k known ones" is taken by setting those k logits to -inf for its duration: it is a
 * sum of its own, never 1 minus the others, which would lose every digit when the tail is small.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

enum { BLOCK = 1024, FLIGHT = 256 };

/* log(sum e^z) = m + log(s); a row of -inf has s = 0. NaN anywhere makes s NaN. */
typedef struct lse {
    float  m;
    double s;
} lse;

static double lse_value(lse a)
{
    return a.m + log(a.s);
}

/* Over one row; e_V, when wanted, receives e^(z - m) and may be z. */
static lse lse_row(float *e, const float *z, int64_t V)
{
    lse a = {-INFINITY, 0};

    {
        float m = -INFINITY;
#pragma omp simd reduction(max : m)
        for (int64_t j = 0; j < V; j++) m = z[j] > m ? z[j] : m;
        a.m = m > -INFINITY ? m : 0.0f; /* all -inf, or all NaN: the sum will tell */
    }
    for (int64_t j0 = 0; j0 < V; j0 += BLOCK) {
        const int64_t j1 = j0 + BLOCK < V ? j0 + BLOCK : V;
        float         t = 0;

        if (e) {
#pragma omp simd reduction(+ : t)
            for (int64_t j = j0; j < j1; j++) {
                const float x = gr_expf(z[j] - a.m);
                e[j] = x;
                t += x;
            }
        } else {
#pragma omp simd reduction(+ : t)
            for (int64_t j = j0; j < j1; j++) t += gr_expf(z[j] - a.m);
        }
        a.s += t;
    }
    return a;
}

/* The same over the k values zk, added to what `tail` holds. */
static lse lse_join(lse tail, const float *zk, int k)
{
    lse a = tail;

    if (!(tail.s > 0)) a.m = -INFINITY;
    for (int i = 0; i < k; i++) a.m = zk[i] > a.m ? zk[i] : a.m;
    if (!(a.m > -INFINITY)) a.m = 0;
    a.s = tail.s == 0 ? 0 : tail.s * exp((double)tail.m - a.m);
    for (int i = 0; i < k; i++) a.s += gr_expf(zk[i] - a.m);
    return a;
}

/* What one row learns from. */
typedef struct row_target {
    int            id, k;
    const int32_t *top_id;
    const float   *top_lp;
    float          tail_lp, kl;
} row_target;

static bool ids_in_range(const row_target *t, int64_t V)
{
    bool ok = t->id < V;

    for (int i = 0; i < t->k; i++) ok &= t->top_id[i] >= 0 && t->top_id[i] < V;
    return ok;
}

/* loss = { CE, KL } of one row, dz its gradient (NULL: unwanted; may be z).
 *   CE = lse - z_id                       KL = sum_K p_i (log p_i - log q_i) + p_t (log p_t - log q_t)
 *   dz = ((1 - a) + a P) q - (1 - a) 1_id - a p;  off K the teacher's share is p_t e^(z - lse_t)
 * P = sum_K p + p_t is 1 but for the rounding of stored log-probabilities; with it the gradient is that of the KL
 * above. */
static void loss_row(double loss[2], float *dz, float *z, int64_t V, const row_target *t)
{
    const double a = t->kl, z_id = z[t->id], p_t = exp((double)t->tail_lp);
    double       kl = 0, P = p_t, all, off;
    float        zk[GR_MAX_TOP_K];
    lse          tail, full;

    for (int i = 0; i < t->k; i++) zk[i] = z[t->top_id[i]];
    for (int i = 0; i < t->k; i++) z[t->top_id[i]] = -INFINITY;
    tail = lse_row(dz, z, V);
    for (int i = t->k - 1; i >= 0; i--) z[t->top_id[i]] = zk[i];
    full = lse_join(tail, zk, t->k);
    all = lse_value(full);

    for (int i = 0; i < t->k; i++) {
        const double p = gr_expf(t->top_lp[i]);

        if (p == 0) continue;
        kl += p * (t->top_lp[i] - (zk[i] - all));
        P += p;
    }
    if (t->k > 0 && p_t != 0) kl += p_t * (t->tail_lp - (lse_value(tail) - all));
    loss[0] = all - z_id;
    loss[1] = kl;
    if (!dz) return;

    /* dz holds e^(z - tail.m), so off K both terms are one factor; full.s is the normaliser of q. */
    all = (1 - a) + a * P;
    off = tail.s == 0 ? 0 : all * exp((double)tail.m - full.m) / full.s - a * p_t / tail.s;
    {
        const float f = (float)off;
#pragma omp simd
        for (int64_t j = 0; j < V; j++) dz[j] *= f;
    }
    for (int i = 0; i < t->k; i++)
        dz[t->top_id[i]] = (float)(all * gr_expf(zk[i] - full.m) / full.s - a * gr_expf(t->top_lp[i]));
    dz[t->id] -= (float)(1 - a);
}

void gr_cpu_token_loss(gr_tensor dz_nV, gr_tensor sum, gr_tensor z_nV, const gr_targets *tg, gr_stream *s)
{
    const int64_t  n = z_nV.dim[0], V = gr_row(z_nV);
    const int      k = tg->top_id.data ? (int)gr_row(tg->top_id) : 0;
    const int32_t *id = tg->id.data, *top_id = tg->top_id.data;
    double         part[FLIGHT][2], total[3] = {0, 0, 0};

    (void)s;
    for (int64_t r0 = 0; r0 < n; r0 += FLIGHT) {
        const int64_t r1 = r0 + FLIGHT < n ? r0 + FLIGHT : n;

#pragma omp parallel for schedule(static, 2) if (n * V > GR_SERIAL)
        for (int64_t r = r0; r < r1; r++) {
            float           *dz = dz_nV.data ? gr_f(dz_nV) + r * V : NULL, *z = gr_f(z_nV) + r * V;
            double          *loss = part[r - r0];
            const row_target t = {id[r],
                                  k,
                                  k ? top_id + r * k : NULL,
                                  k ? gr_f(tg->top_lp) + r * k : NULL,
                                  k ? gr_f(tg->tail_lp)[r] : -INFINITY,
                                  k ? tg->kl : 0};

            loss[0] = loss[1] = 0;
            if (t.id >= 0 && ids_in_range(&t, V)) {
                loss_row(loss, dz, z, V, &t);
                continue;
            }
            if (t.id >= 0) loss[0] = loss[1] = NAN; /* a damaged target must not pass for a good one */
            for (int64_t j = 0; dz && j < V; j++) dz[j] = (float)loss[0];
        }
        for (int64_t r = r0; r < r1; r++) {
            total[0] += part[r - r0][0];
            total[1] += part[r - r0][1];
            total[2] += id[r] >= 0;
        }
    }
    for (int i = 0; i < 3; i++) ((double *)sum.data)[i] += total[i];
}

/* ---- the k largest ---- */

/* Larger value first, then lower id, as one number: the bits of a float in an order that integers share, then ~id. */
static uint64_t key_of(float z, int64_t id)
{
    uint32_t u;

    z += 0.0f; /* -0 becomes +0: they are equal, so the id decides */
    memcpy(&u, &z, 4);
    u = u >> 31 ? ~u : u | UINT32_C(0x80000000);
    return (uint64_t)u << 32 | (uint32_t) ~(uint32_t)id;
}

static int64_t id_of(uint64_t key)
{
    return (int64_t)(uint32_t) ~(uint32_t)key;
}

/* heap[0] is the smallest of k keys; put `key` where the hole at i sinks to. */
static void sink(uint64_t *heap, int k, int i, uint64_t key)
{
    for (int child = 2 * i + 1; child < k; child = 2 * i + 1) {
        if (child + 1 < k && heap[child + 1] < heap[child]) child++;
        if (key <= heap[child]) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = key;
}

/* The k largest of z_V into heap, in falling order. Most blocks hold nothing above the k-th so far, and one compare
 * tells. */
static void select_row(uint64_t *heap, int k, const float *z, int64_t V)
{
    enum { STEP = 64 };

    for (int i = 0; i < k; i++) heap[i] = key_of(z[i], i);
    for (int i = k / 2 - 1; i >= 0; i--) sink(heap, k, i, heap[i]);
    for (int64_t j0 = k; j0 < V; j0 += STEP) {
        const int64_t j1 = j0 + STEP < V ? j0 + STEP : V;
        const float   bar = z[id_of(heap[0])];
        int           over = 0;

#pragma omp simd reduction(| : over)
        for (int64_t j = j0; j < j1; j++) over |= z[j] > bar;
        for (int64_t j = j0; over && j < j1; j++) {
            const uint64_t key = key_of(z[j], j);
            if (key > heap[0]) sink(heap, k, 0, key);
        }
    }
    for (int n = k - 1; n > 0; n--) { /* heap sort: the smallest goes last */
        const uint64_t least = heap[0];

        sink(heap, n, 0, heap[n]);
        heap[n] = least;
    }
}

void gr_cpu_top_k(gr_tensor id_nk, gr_tensor lp_nk, gr_tensor tail_n, gr_tensor z_nV, gr_stream *s)
{
    const int64_t n = z_nV.dim[0], V = gr_row(z_nV);
    const int     k = (int)gr_row(id_nk);

    (void)s;
#pragma omp parallel for schedule(static) if (n * V > GR_SERIAL)
    for (int64_t r = 0; r < n; r++) {
        float   *z = gr_f(z_nV) + r * V, *lp = gr_f(lp_nk) + r * k;
        int32_t *id = (int32_t *)id_nk.data + r * k;
        uint64_t heap[GR_MAX_TOP_K];
        float    zk[GR_MAX_TOP_K];
        lse      tail;
        double   all;

        select_row(heap, k, z, V);
        for (int i = 0; i < k; i++) {
            id[i] = (int32_t)id_of(heap[i]);
            zk[i] = z[id[i]];
            z[id[i]] = -INFINITY;
        }
        tail = lse_row(NULL, z, V);
        for (int i = 0; i < k; i++) z[id[i]] = zk[i];
        all = lse_value(lse_join(tail, zk, k));
        for (int i = 0; i < k; i++) lp[i] = (float)(zk[i] - all);
        gr_f(tail_n)[r] = (float)(lse_value(tail) - all);
    }
}

/* ---- everything ---- */

void gr_cpu_kl_full(gr_tensor sum, gr_tensor zs_nV, gr_tensor zt_nV, gr_tensor id_n, gr_stream *s)
{
    const int64_t  n = zs_nV.dim[0], V = gr_row(zs_nV);
    const int32_t *id = id_n.data;
    double         part[FLIGHT], total[2] = {0, 0};

    (void)s;
    for (int64_t r0 = 0; r0 < n; r0 += FLIGHT) {
        const int64_t r1 = r0 + FLIGHT < n ? r0 + FLIGHT : n;

#pragma omp      parallel for schedule(static, 2) if (n * V > GR_SERIAL)
        for (int64_t r = r0; r < r1; r++) {
                 const float *zs = gr_f(zs_nV) + r * V, *zt = gr_f(zt_nV) + r * V;
                 double       kl = 0;

                 if (id[r] >= 0) {
                     const double ls = lse_value(lse_row(NULL, zs, V)), lt = lse_value(lse_row(NULL, zt, V));

                     /* sum p (log p - log q): the difference in fp64, since it is small where the models agree */
     #pragma omp simd reduction(+ : kl)
                for (int64_t j = 0; j < V; j++) {
                         const double lp = zt[j] - lt, lq = zs[j] - ls;
                         const float  p = gr_expf((float)lp);

                         kl += p == 0.0f ? 0.0 : p * (lp - lq);
                }
            }
                 part[r - r0] = kl;
             }
             for (int64_t r = r0; r < r1; r++) {
                 total[0] += part[r - r0];
                 total[1] += id[r] >= 0;
             }
         }
         for (int i = 0; i < 2; i++) ((double *)sum.data)[i] += total[i];
}
