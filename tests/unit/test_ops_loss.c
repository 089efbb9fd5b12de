/* Cross-entropy and KL over the vocabulary, top-k, full KL and the alignment loss, against fp64. */
/*TEST
np: 1
timeout: 120
*/
#include "tests/unit/oracle.h"

static const gr_ops *op = &gr_ops_cpu;

static double log_sum_exp(const double *z, int64_t V, const bool *skip)
{
    double m = -INFINITY, s = 0;

    for (int64_t j = 0; j < V; j++)
        if (!skip || !skip[j]) m = fmax(m, z[j]);
    if (m == -INFINITY) return m;
    for (int64_t j = 0; j < V; j++)
        if (!skip || !skip[j]) s += exp(z[j] - m);
    return m + log(s);
}

/* ---- token loss ---- */

typedef struct loss_case {
    int64_t  n, V;
    int      k;
    double   a, *z;
    int32_t *id, *top_id;
    float   *zf, *dz, *lp, *tail;
} loss_case;

/* CE and KL of one row as docs/math.md 9.1 writes them. */
static void row_oracle(const loss_case *c, int64_t r, double *ce, double *kl)
{
    const double *z = c->z + r * c->V;
    bool          known[3000] = {false};
    double        lse = log_sum_exp(z, c->V, NULL), tail;

    *ce = lse - z[c->id[r]];
    *kl = 0;
    if (!c->k) return;
    for (int i = 0; i < c->k; i++) known[c->top_id[r * c->k + i]] = true;
    tail = log_sum_exp(z, c->V, known);
    for (int i = 0; i < c->k; i++) {
        const double lp = c->lp[r * c->k + i];
        if (lp > -INFINITY) *kl += exp(lp) * (lp - (z[c->top_id[r * c->k + i]] - lse));
    }
    if (c->tail[r] > -INFINITY) *kl += exp((double)c->tail[r]) * (c->tail[r] - (tail - lse));
}

static void oracle(const loss_case *c, double sum[3])
{
    sum[0] = sum[1] = sum[2] = 0;
    for (int64_t r = 0; r < c->n; r++) {
        double ce, kl;

        if (c->id[r] < 0) continue;
        row_oracle(c, r, &ce, &kl);
        sum[0] += ce, sum[1] += kl, sum[2] += 1;
    }
}

static double value(const void *ctx)
{
    const loss_case *c = ctx;
    double           sum[3];

    oracle(c, sum);
    return (1 - c->a) * sum[0] + c->a * sum[1];
}

static gr_targets targets(const loss_case *c)
{
    const gr_targets none = {.id = ints(c->id, c->n), .top_id = gr_none(), .top_lp = gr_none(), .tail_lp = gr_none()};
    gr_targets       t = none;

    if (!c->k) return none;
    t.top_id = gr_view2(c->top_id, GR_I32, c->n, c->k);
    t.top_lp = mat(c->lp, c->n, c->k);
    t.tail_lp = vec1(c->tail, c->n);
    t.kl = (float)c->a;
    return t;
}

static double last_sum[3];

static void run(const void *ctx)
{
    const loss_case *c = ctx;
    const gr_targets t = targets(c);

    last_sum[0] = last_sum[1] = last_sum[2] = 0;
    op->token_loss(mat(c->dz, c->n, c->V), gr_view1(last_sum, GR_F64, 3), mat(c->zf, c->n, c->V), &t, NULL);
}

/* A teacher: its k most likely tokens of some logits, and the rest as a tail. tail false: all mass on the k. */
static void teach(loss_case *c, bool with_tail)
{
    double *zt = widen(uniform(c->n * c->V, 77, -4, 4), c->n * c->V);

    c->top_id = take(c->n * c->k, sizeof *c->top_id);
    c->lp = take(c->n * c->k, sizeof *c->lp), c->tail = take(c->n, sizeof *c->tail);
    for (int64_t r = 0; r < c->n; r++) {
        const double *z = zt + r * c->V;
        bool          known[3000] = {false};
        double        lse = 0;

        for (int i = 0; i < c->k; i++) {
            int64_t best = -1;
            for (int64_t j = 0; j < c->V; j++)
                if (!known[j] && (best < 0 || z[j] > z[best])) best = j;
            known[best] = true;
            c->top_id[r * c->k + i] = (int32_t)best;
        }
        if (with_tail) {
            lse = log_sum_exp(z, c->V, NULL);
        } else {
            for (int i = 0; i < c->k; i++) lse += exp(z[c->top_id[r * c->k + i]]);
            lse = log(lse);
        }
        for (int i = 0; i < c->k; i++) c->lp[r * c->k + i] = (float)(z[c->top_id[r * c->k + i]] - lse);
        c->tail[r] = with_tail ? (float)(log_sum_exp(z, c->V, known) - lse) : -INFINITY;
    }
}

static void token_loss(int64_t n, int64_t V, int k, double a, bool with_tail)
{
    loss_case  c = {.n = n, .V = V, .k = k, .a = a, .zf = uniform(n * V, 1, -5, 5), .dz = poisoned(n * V)};
    double     want[3], sum[3] = {1, 2, 3}; /* += */
    float     *z0 = take(n * V, sizeof *z0);
    gr_targets t;
    char       what[100];

    snprintf(what, sizeof what, "token_loss [%lld, %lld] k %d kl %g%s", (long long)n, (long long)V, k, a,
             with_tail ? "" : " no tail");
    c.id = take(n, sizeof *c.id);
    if (k) teach(&c, with_tail);
    for (int64_t r = 0; r < n; r++) {
        c.id[r] = r % 7 == 3   ? -1
                  : k && r % 2 ? c.top_id[r * k + (int)r % k]
                               : (int32_t)(r * 31 % V); /* in K or anywhere */
        if (c.id[r] < 0) c.zf[r * V] = NAN;             /* padding may hold anything */
    }
    memcpy(z0, c.zf, (size_t)(n * V) * sizeof *z0);
    c.z = widen(c.zf, n * V);
    t = targets(&c);
    oracle(&c, want);
    run(&c);
    for (int i = 0; i < 3; i++) /* logits carry 6e-8 of 5, the KL cancels to a fraction of the CE */
        CHECK(fabs(last_sum[i] - want[i]) <= 1e-6 * (want[0] + 1), "%s: sum %d is %.9g, not %.9g", what, i, last_sum[i],
              want[i]);
    CHECK(memcmp(z0, c.zf, (size_t)(n * V) * sizeof *z0) == 0, "%s: z is changed", what);
    for (int64_t r = 0; r < n; r++)
        if (c.id[r] < 0)
            for (int64_t j = 0; j < V; j++)
                CHECK(c.dz[r * V + j] == 0, "%s: gradient of a row with nothing to learn", what);
    check_grad(what, c.dz, NULL, c.z, n * V, value, &c, 2e-6);

    op->token_loss(gr_none(), gr_view1(sum, GR_F64, 3), mat(c.zf, n, V), &t, NULL);
    for (int i = 0; i < 3; i++)
        CHECK(fabs(sum[i] - (i + 1) - last_sum[i]) <= 1e-9 * (fabs(sum[i]) + 1), "%s: values only differ", what);
    check_bits(what, run, &c, c.dz, n * V);

    sum[0] = sum[1] = sum[2] = 0; /* in place */
    op->token_loss(mat(c.zf, n, V), gr_view1(sum, GR_F64, 3), mat(c.zf, n, V), &t, NULL);
    CHECK(memcmp(sum, last_sum, sizeof sum) == 0 && memcmp(c.zf, c.dz, (size_t)(n * V) * 4) == 0,
          "%s: in place differs", what);
    take_back();
}

/* A student so sure of the k that the rest lies 400 nats below: the tail's own log-sum-exp still sees it. */
static void far_tail(void)
{
    loss_case c = {.n = 1, .V = 100, .k = 2, .a = 1, .zf = uniform(100, 1, -200, -199), .dz = poisoned(100)};
    int32_t   id[] = {5}, top[] = {5, 9};
    float     lp[] = {-0.6931472f, -0.6931472f - 1e-3f}, tail[] = {-7.6f};
    double    ce, kl;

    c.id = id, c.top_id = top, c.lp = lp, c.tail = tail;
    c.zf[5] = 200, c.zf[9] = 199;
    c.z = widen(c.zf, 100);
    row_oracle(&c, 0, &ce, &kl);
    run(&c);
    CHECK(fabs(last_sum[1] - kl) <= 1e-6 * kl, "far tail: KL %.9g, not %.9g", last_sum[1], kl);
    check_grad("far tail", c.dz, NULL, c.z, 100, value, &c, 1e-6);

    c.zf[7] = -INFINITY; /* a masked token */
    c.z[7] = -INFINITY;
    row_oracle(&c, 0, &ce, &kl);
    run(&c);
    CHECK(fabs(last_sum[1] - kl) <= 1e-6 * kl && c.dz[7] == 0, "masked token");

    { /* two tokens in all, both known, 900 nats below zero */
        float     low[] = {-900, -901}, both[] = {-0.6931472f, -0.6931472f}, dz[2];
        int32_t   one[] = {1}, first_two[] = {0, 1};
        float     nothing[] = {-INFINITY};
        loss_case d = {.n = 1,
                       .V = 2,
                       .k = 2,
                       .a = 1,
                       .zf = low,
                       .dz = dz,
                       .id = one,
                       .top_id = first_two,
                       .lp = both,
                       .tail = nothing};

        d.z = widen(low, 2);
        row_oracle(&d, 0, &ce, &kl);
        run(&d);
        CHECK(fabs(last_sum[1] - kl) <= 1e-6 && fabs(last_sum[0] - ce) <= 1e-6, "no tail, low logits: %g", last_sum[1]);
        check_grad("no tail, low logits", dz, NULL, d.z, 2, value, &d, 1e-6);
    }
    take_back();
}

/* A student's NaN, and damaged ids, must show in the sum. */
static void not_hidden(void)
{
    const int64_t V = 331;

    for (int kind = 0; kind < 7; kind++) {
        loss_case c = {.n = 2, .V = V, .k = 3, .a = 0.5, .zf = uniform(2 * V, 1, -5, 5), .dz = poisoned(2 * V)};

        c.id = take(2, sizeof *c.id);
        c.id[1] = 4;
        teach(&c, true);
        switch (kind) {
        case 0: c.zf[V + 17] = NAN; break;
        case 1: c.zf[V + c.top_id[3]] = NAN; break;
        case 2: c.zf[V + 3] = INFINITY; break;
        case 3: poison(c.zf + V, V); break;
        case 4: c.top_id[4] = (int32_t)V; break;
        case 5: c.top_id[4] = -1; break;
        default: c.id[1] = (int32_t)V;
        }
        run(&c);
        CHECK(isnan(last_sum[0] + last_sum[1]) && last_sum[2] == 2, "case %d is hidden: %g %g", kind, last_sum[0],
              last_sum[1]);
        CHECK(isnan(c.dz[V]) || isnan(c.dz[V + 1]), "case %d: a clean gradient", kind);
        CHECK(isfinite(c.dz[0]), "case %d reaches another row", kind);
        take_back();
    }
}

/* ---- top-k ---- */

typedef struct topk {
    int64_t  n, V;
    int      k;
    float   *z, *lp, *tail;
    int32_t *id;
} topk;

static void topk_run(const void *ctx)
{
    const topk *c = ctx;

    op->top_k(gr_view2(c->id, GR_I32, c->n, c->k), mat(c->lp, c->n, c->k), vec1(c->tail, c->n), mat(c->z, c->n, c->V),
              NULL);
}

static void top_k(int64_t n, int64_t V, int k, int form)
{
    topk   c = {n, V, k, uniform(n * V, 5, -8, 8), poisoned(n * k), poisoned(n), take(n * k, sizeof(int32_t))};
    float *z0 = take(n * V, sizeof *z0);
    bool  *known = take(V, sizeof *known);
    char   what[80];

    snprintf(what, sizeof what, "top_k [%lld, %lld] k %d form %d", (long long)n, (long long)V, k, form);
    for (int64_t i = 0; i < n * V; i++) {
        if (form == 1) c.z[i] = rintf(c.z[i]);          /* many ties */
        if (form == 2) c.z[i] = (float)(i % V) * 1e-3f; /* rising: every token enters */
        if (form == 3) c.z[i] = i % 2 ? -0.0f : 0.0f;   /* all equal */
        if (form == 4 && i % 3) c.z[i] = -INFINITY;
        if (form == 5) c.z[i] *= 100; /* the tail is nothing next to the first */
    }
    memcpy(z0, c.z, (size_t)(n * V) * sizeof *z0);
    topk_run(&c);
    CHECK(memcmp(z0, c.z, (size_t)(n * V) * sizeof *z0) == 0, "%s: z is changed", what);
    for (int64_t r = 0; r < n; r++) {
        double *z = widen(c.z + r * V, V), lse = log_sum_exp(z, V, NULL), tail;

        memset(known, 0, (size_t)V * sizeof *known);
        for (int i = 0; i < k; i++) {
            int64_t best = -1;

            for (int64_t j = 0; j < V; j++)
                if (!known[j] && (best < 0 || z[j] > z[best])) best = j;
            known[best] = true;
            CHECK(c.id[r * k + i] == best, "%s: row %lld, place %d is %d, not %lld", what, (long long)r, i,
                  c.id[r * k + i], (long long)best);
            CHECK(c.lp[r * k + i] == (float)(z[best] - lse) ||
                      fabs(c.lp[r * k + i] - (z[best] - lse)) <= 1e-6 * (1 + fabs(lse)),
                  "%s: lp %.9g, not %.9g", what, c.lp[r * k + i], z[best] - lse);
        }
        tail = log_sum_exp(z, V, known) - lse;
        CHECK(c.tail[r] == (float)tail || fabs(c.tail[r] - tail) <= 1e-6 * (1 + fabs(tail)), "%s: tail %.9g, not %.9g",
              what, c.tail[r], tail);
    }
    check_bits(what, topk_run, &c, c.lp, n * k);
    check_bits(what, topk_run, &c, c.tail, n);
    take_back();
}

static void top_k_nan(void)
{
    for (int kind = 0; kind < 3; kind++) {
        topk c = {2, 331, 5, uniform(2 * 331, 5, -8, 8), take(10, 4), take(2, 4), take(10, 4)};

        if (kind == 0) c.z[331 + 200] = NAN;
        if (kind == 1) c.z[331] = -NAN;
        if (kind == 2) poison(c.z + 331, 331);
        topk_run(&c);
        CHECK(isfinite(c.lp[0]) && isfinite(c.tail[0]), "NaN reaches another row");
        for (int i = 0; i < 5; i++) {
            CHECK(isnan(c.lp[5 + i]) && isnan(c.tail[1]), "NaN is hidden, kind %d", kind);
            CHECK(c.id[5 + i] >= 0 && c.id[5 + i] < 331, "id %d", c.id[5 + i]);
        }
        take_back();
    }
}

/* ---- full KL, alignment ---- */

static void kl_full(int64_t n, int64_t V, double apart)
{
    float   *zt = uniform(n * V, 1, -8, 8), *noise = uniform(n * V, 2, -apart, apart), *zs = take(n * V, sizeof *zs);
    int32_t *id = take(n, sizeof *id);
    double   want = 0, sum[2] = {1, 2}, again[2] = {1, 2}, counted = 0;

    for (int64_t i = 0; i < n * V; i++) zs[i] = zt[i] + noise[i] + 3;
    if (V > 3) zt[1] = -INFINITY; /* p = 0 */
    if (V > 3 && n > 1) zt[V + 2] = zs[V + 2] = -INFINITY;
    for (int64_t r = 0; r < n; r++) {
        double *t = widen(zt + r * V, V), *s = widen(zs + r * V, V);
        double  lt = log_sum_exp(t, V, NULL), ls = log_sum_exp(s, V, NULL);

        id[r] = r % 5 == 4 ? -1 : 0;
        if (id[r] < 0) {
            zt[r * V] = NAN;
            continue;
        }
        counted++;
        for (int64_t j = 0; j < V; j++)
            if (t[j] > -INFINITY) want += exp(t[j] - lt) * (t[j] - lt - s[j] + ls);
    }
    op->kl_full(gr_view1(sum, GR_F64, 2), mat(zs, n, V), mat(zt, n, V), ints(id, n), NULL);
    /* per row, what fp32 exponentials leave in the two log-sum-exps: some 1e-8 */
    CHECK(fabs(sum[0] - 1 - want) <= 1e-6 * fabs(want) + 3e-8 * counted && sum[1] == 2 + counted,
          "kl_full %g apart: %.9g, not %.9g", apart, sum[0] - 1, want);
    omp_set_num_threads(1);
    op->kl_full(gr_view1(again, GR_F64, 2), mat(zs, n, V), mat(zt, n, V), ints(id, n), NULL);
    omp_set_num_threads(2);
    CHECK(memcmp(sum, again, sizeof sum) == 0, "kl_full: other bits with one thread");
    zs[V - 1] = NAN;
    if (V > 1) zt[V - 1] = -INFINITY; /* also where the teacher gives nothing */
    op->kl_full(gr_view1(sum, GR_F64, 2), mat(zs, n, V), mat(zt, n, V), ints(id, n), NULL);
    CHECK(isnan(sum[0]), "kl_full hides a NaN");
    take_back();
}

static void align(int64_t N, int64_t D, bool masked)
{
    float *h = uniform(N * D, 1, -1, 1), *y = uniform(N * D, 2, -1, 1), *dh = poisoned(N * D),
          *in_place = take(N * D, 4);
    uint8_t *mask = take(N, 1);
    double   sum[2] = {1, 2}, want[2] = {1, 2}, again[2] = {1, 2};

    for (int64_t t = 0; t < N; t++) mask[t] = t % 3 != 1;
    for (int64_t t = 0; t < N; t++)
        for (int64_t i = 0; i < D; i++) {
            const double hi = h[t * D + i], yi = y[t * D + i];

            if (masked && !mask[t]) {
                h[t * D + i] = NAN; /* padding may hold anything */
                continue;
            }
            want[0] += (hi - yi) * (hi - yi);
            want[1] += yi * yi;
        }
    memcpy(in_place, h, (size_t)(N * D) * sizeof *h);
    op->align_loss(mat(dh, N, D), gr_view1(sum, GR_F64, 2), mat(h, N, D), mat(y, N, D),
                   masked ? gr_view1(mask, GR_U8, N) : gr_none(), NULL);
    for (int i = 0; i < 2; i++)
        CHECK(fabs(sum[i] - want[i]) <= 1e-12 * want[i], "align: %.15g, not %.15g", sum[i], want[i]);
    for (int64_t i = 0; i < N * D; i++) {
        const float expect = masked && !mask[i / D] ? 0 : 2 * (h[i] - y[i]);
        CHECK(dh[i] == expect, "align: dh[%lld] = %g, not %g", (long long)i, dh[i], expect);
    }
    omp_set_num_threads(1);
    op->align_loss(mat(in_place, N, D), gr_view1(again, GR_F64, 2), mat(in_place, N, D), mat(y, N, D),
                   masked ? gr_view1(mask, GR_U8, N) : gr_none(), NULL);
    omp_set_num_threads(2);
    CHECK(memcmp(sum, again, sizeof sum) == 0 && memcmp(dh, in_place, (size_t)(N * D) * 4) == 0,
          "align: in place, one thread");
    again[0] = 1, again[1] = 2;
    op->align_loss(gr_none(), gr_view1(again, GR_F64, 2), mat(h, N, D), mat(y, N, D),
                   masked ? gr_view1(mask, GR_U8, N) : gr_none(), NULL);
    CHECK(memcmp(sum, again, sizeof sum) == 0, "align: values only");
    take_back();
}

int main(void)
{
    static const int ks[] = {0, 1, 5, 64};

    omp_set_num_threads(2);
    for (int i = 0; i < 4; i++)
        for (int tail = 0; tail < 2; tail++)
            for (double a = 0; a <= 1; a += 0.5) {
                if (!ks[i] && (a > 0 || tail)) continue;
                token_loss(1, 331, ks[i], a, tail);
                token_loss(67, 331, ks[i], a, tail);
            }
    token_loss(3, 64, 64, 0.5, false); /* K is the whole vocabulary */
    token_loss(3, 3000, 5, 0.5, true);
    token_loss(300, 67, 5, 0.3, true); /* more rows than one flight */
    token_loss(1, 1, 0, 0, false);
    far_tail();
    not_hidden();

    for (int form = 0; form < 6; form++) {
        top_k(3, 331, 1, form);
        top_k(67, 331, 5, form);
        top_k(2, 2000, 64, form);
        top_k(1, 50, 50, form);
        top_k(1, 5025, 1024, form);
    }
    top_k(1, 1, 1, 0);
    top_k(1, 50257, 5, 0);
    top_k_nan();

    kl_full(1, 1, 1);
    kl_full(3, 331, 1);
    kl_full(67, 1500, 1);
    kl_full(67, 1500, 1e-3);
    align(1, 1, false);
    for (int masked = 0; masked < 2; masked++) {
        align(3, 33, masked);
        align(1500, 16, masked);
    }
    return check_result();
}
