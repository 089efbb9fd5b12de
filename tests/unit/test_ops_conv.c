/* Short convolution: documents, the head from before the first token, every width, forward and backward, against fp64.
 */
/*TEST
np: 1
timeout: 120
*/
#include "tests/unit/oracle.h"

static const gr_ops *op = &gr_ops_cpu;

typedef struct conv_case {
    int64_t N, C;
    int     W;
    gr_seq  seq;
    double *x, *w, *b, *head, *dy; /* b, head NULL: none */
    float  *xf, *wf, *bf, *headf, *dyf;
    float  *y, *dx, *dw, *db, *dhead;
} conv_case;

static void oracle(const conv_case *c, double *y)
{
    for (int d = 0; d < c->seq.n_doc; d++)
        for (int64_t t = c->seq.doc[d]; t < c->seq.doc[d + 1]; t++)
            for (int64_t k = 0; k < c->C; k++) {
                double pre = c->b ? c->b[k] : 0;

                for (int j = 0; j < c->W; j++) {
                    const int64_t s = t - c->W + 1 + j;

                    if (s >= c->seq.doc[d])
                        pre += c->w[k * c->W + j] * c->x[s * c->C + k];
                    else if (s < 0 && d == 0 && c->head)
                        pre += c->w[k * c->W + j] * c->head[(s + c->W - 1) * c->C + k];
                }
                y[t * c->C + k] = pre / (1 + exp(-pre));
            }
}

static double value(const void *ctx)
{
    const conv_case *c = ctx;
    static double    y[60000];

    oracle(c, y);
    return sum_product(y, c->dy, c->N * c->C);
}

static gr_tensor bias(const conv_case *c)
{
    return c->bf ? vec1(c->bf, c->C) : gr_none();
}
static gr_tensor head(const conv_case *c)
{
    return c->headf ? mat(c->headf, c->W - 1, c->C) : gr_none();
}

static void run(const void *ctx)
{
    const conv_case *c = ctx;
    const int64_t    N = c->N, C = c->C, W = c->W;

    for (int64_t i = 0; i < C * W; i++) c->dw[i] = 0.5f; /* += */
    for (int64_t i = 0; i < C; i++) c->db[i] = 0.5f;
    op->conv(mat(c->y, N, C), mat(c->xf, N, C), mat(c->wf, C, W), bias(c), head(c), &c->seq, NULL);
    op->conv_back(mat(c->dx, N, C), mat(c->dw, C, W), c->bf ? vec1(c->db, C) : gr_none(),
                  c->headf ? mat(c->dhead, W - 1, C) : gr_none(), mat(c->dyf, N, C), mat(c->xf, N, C), mat(c->wf, C, W),
                  bias(c), head(c), &c->seq, NULL);
}

static conv_case make(int64_t N, int64_t C, int W, int n_doc, const int32_t *doc, bool with_b, bool with_head)
{
    conv_case c = {.N = N, .C = C, .W = W, .seq = {.n = N, .n_doc = n_doc, .doc = doc}};

    c.xf = uniform(N * C, 1, -2, 2), c.wf = uniform(C * W, 2, -1, 1), c.dyf = uniform(N * C, 3, -1, 1);
    c.x = widen(c.xf, N * C), c.w = widen(c.wf, C * W), c.dy = widen(c.dyf, N * C);
    if (with_b) c.bf = uniform(C, 4, -1, 1), c.b = widen(c.bf, C);
    if (with_head) c.headf = uniform((W - 1) * C, 5, -2, 2), c.head = widen(c.headf, (W - 1) * C);
    c.y = poisoned(N * C), c.dx = poisoned(N * C), c.dw = poisoned(C * W), c.db = poisoned(C),
    c.dhead = poisoned((W - 1) * C);
    return c;
}

static void one(int64_t N, int64_t C, int W, int n_doc, const int32_t *doc, bool with_b, bool with_head)
{
    conv_case c = make(N, C, W, n_doc, doc, with_b, with_head);
    double   *y = take(N * C, sizeof *y);
    float    *half = take(C * W, sizeof *half), *dx = poisoned(N * C);
    char      what[100];

    snprintf(what, sizeof what, "conv [%lld, %lld] W %d, %d documents%s%s", (long long)N, (long long)C, W, n_doc,
             with_b ? ", bias" : "", with_head ? ", head" : "");
    for (int64_t i = 0; i < C * W; i++) half[i] = 0.5f;
    run(&c);
    oracle(&c, y);
    CHECK_REL(c.y, y, N * C, 2e-6, what); /* W + 1 additions of numbers up to 2, then silu */
    check_grad(what, c.dx, NULL, c.x, N * C, value, &c, 3e-6);
    check_grad(what, c.dw, half, c.w, C * W, value, &c, 1e-5);
    if (with_b) check_grad(what, c.db, half, c.b, C, value, &c, 1e-5);
    if (with_head) check_grad(what, c.dhead, NULL, c.head, (W - 1) * C, value, &c, 3e-6);
    check_bits(what, run, &c, c.y, N * C);
    check_bits(what, run, &c, c.dx, N * C);
    check_bits(what, run, &c, c.dw, C * W);
    if (with_b) check_bits(what, run, &c, c.db, C);
    if (with_head) check_bits(what, run, &c, c.dhead, (W - 1) * C);

    op->conv_back(mat(dx, N, C), gr_none(), gr_none(), gr_none(), mat(c.dyf, N, C), mat(c.xf, N, C), mat(c.wf, C, W),
                  bias(&c), head(&c), &c.seq, NULL);
    CHECK(memcmp(dx, c.dx, (size_t)(N * C) * sizeof *dx) == 0, "%s: dx depends on what else is wanted", what);
    take_back();
}

/* One document cut at `cut`: the right part, with the left part's last rows as head, gives the whole, and its dhead is
 * what the left part's last rows lack. Parts shorter than the convolution fill up with zeros. */
static void halo(int64_t N, int64_t C, int W, int64_t cut)
{
    const int32_t whole_doc[] = {0, (int32_t)N}, left_doc[] = {0, (int32_t)cut}, right_doc[] = {0, (int32_t)(N - cut)};
    const gr_seq  left = {.n = cut, .n_doc = 1, .doc = left_doc}, right = {.n = N - cut, .n_doc = 1, .doc = right_doc};
    conv_case     c = make(N, C, W, 1, whole_doc, true, false);
    float        *y = poisoned(N * C), *dx = poisoned(N * C), *dw = take(C * W, 4), *db = take(C, 4),
          *hd = take((W - 1) * C, 4);
    float    *dhead = poisoned((W - 1) * C);
    double   *want = take(N * C, sizeof *want), *want_w = take(C * W, sizeof *want_w);
    gr_tensor w = mat(c.wf, C, W), b = vec1(c.bf, C), dwt = mat(dw, C, W), dbt = vec1(db, C), none = gr_none();
    gr_tensor h = mat(hd, W - 1, C), dh = mat(dhead, W - 1, C);

    run(&c);
    for (int64_t i = 0; i < (W - 1) * C; i++) {
        const int64_t s = cut * C - (W - 1) * C + i;
        hd[i] = s >= 0 ? c.xf[s] : 0;
    }
    op->conv(mat(y, cut, C), mat(c.xf, cut, C), w, b, none, &left, NULL);
    op->conv(mat(y + cut * C, N - cut, C), mat(c.xf + cut * C, N - cut, C), w, b, h, &right, NULL);
    CHECK(memcmp(y, c.y, (size_t)(N * C) * sizeof *y) == 0, "cut at %lld: y has other bits", (long long)cut);

    op->conv_back(mat(dx, cut, C), dwt, dbt, none, mat(c.dyf, cut, C), mat(c.xf, cut, C), w, b, none, &left, NULL);
    op->conv_back(mat(dx + cut * C, N - cut, C), dwt, dbt, dh, mat(c.dyf + cut * C, N - cut, C),
                  mat(c.xf + cut * C, N - cut, C), w, b, h, &right, NULL);
    for (int64_t i = 0; i < (W - 1) * C; i++) {
        const int64_t s = cut * C - (W - 1) * C + i;
        if (s >= 0) dx[s] += dhead[i];
    }
    for (int64_t i = 0; i < N * C; i++) want[i] = c.dx[i];
    for (int64_t i = 0; i < C * W; i++) want_w[i] = c.dw[i] - 0.5;
    CHECK_REL(dx, want, N * C, 5e-7, "halo: dx"); /* the same four terms in another order */
    CHECK_REL(dw, want_w, C * W, 2e-6, "halo: dw");
    take_back();
}

/* Token by token with the last W - 1 inputs as head, as decoding does. */
static void decode(int64_t N, int64_t C, int W)
{
    const int32_t doc[] = {0, (int32_t)N}, step_doc[] = {0, 1};
    const gr_seq  step = {.n = 1, .n_doc = 1, .doc = step_doc};
    conv_case     c = make(N, C, W, 1, doc, true, false);
    float        *hd = take(W * C, sizeof *hd), *y = poisoned(C);

    run(&c);
    for (int64_t t = 0; t < N; t++) {
        op->conv(mat(y, 1, C), mat(c.xf + t * C, 1, C), mat(c.wf, C, W), vec1(c.bf, C), mat(hd, W - 1, C), &step, NULL);
        CHECK(memcmp(y, c.y + t * C, (size_t)C * sizeof *y) == 0, "token %lld has other bits", (long long)t);
        memmove(hd, hd + C, (size_t)((W - 1) * C) * sizeof *hd);
        if (W > 1) memcpy(hd + (W - 2) * C, c.xf + t * C, (size_t)C * sizeof *hd);
    }
    take_back();
}

/* Nothing of one document reaches another: NaN and all. */
static void isolation(void)
{
    static const int32_t doc[] = {0, 1, 3, 6, 70, 72, 200};
    const int64_t        N = 200, C = 33;
    conv_case            c = make(N, C, 4, 6, doc, true, false);
    float               *y = poisoned(N * C), *dx = poisoned(N * C);

    run(&c);
    memcpy(y, c.y, (size_t)(N * C) * sizeof *y);
    memcpy(dx, c.dx, (size_t)(N * C) * sizeof *dx);
    for (int d = 0; d < 6; d++) {
        float *keep_x = take(N * C, sizeof *keep_x), *keep_dy = take(N * C, sizeof *keep_dy);

        memcpy(keep_x, c.xf, (size_t)(N * C) * sizeof *keep_x);
        memcpy(keep_dy, c.dyf, (size_t)(N * C) * sizeof *keep_dy);
        poison(c.xf + doc[d] * C, (doc[d + 1] - doc[d]) * C);
        poison(c.dyf + doc[d] * C, (doc[d + 1] - doc[d]) * C);
        run(&c);
        for (int64_t i = 0; i < N * C; i++) {
            const bool inside = i / C >= doc[d] && i / C < doc[d + 1];
            const bool same = memcmp(&y[i], &c.y[i], 4) == 0 && memcmp(&dx[i], &c.dx[i], 4) == 0;

            if (inside ? !isnan(c.y[i]) || !isnan(c.dx[i]) : !same) {
                CHECK(0, "document %d reaches token %lld", d, (long long)(i / C));
                break;
            }
        }
        memcpy(c.xf, keep_x, (size_t)(N * C) * sizeof *keep_x);
        memcpy(c.dyf, keep_dy, (size_t)(N * C) * sizeof *keep_dy);
    }
    take_back();
}

int main(void)
{
    static const int32_t d1[] = {0, 1}, d3[] = {0, 3}, d67[] = {0, 67}, many[] = {0, 1, 3, 6, 6, 10, 63, 65, 66, 67};
    static const int32_t d150[] = {0, 62, 64, 128, 129, 150};

    omp_set_num_threads(2);
    for (int form = 0; form < 4; form++) {
        const bool b = form & 1, h = form & 2;

        for (int W = 1; W <= 7; W++) {
            if (h && W == 1) continue; /* a head of no rows */
            one(1, 16, W, 1, d1, b, h);
            one(67, 33, W, 9, many, b, h);
        }
        one(3, 1, 4, 1, d3, b, h);
        one(67, 128, 4, 1, d67, b, h);
        one(150, 300, 4, 5, d150, b, h);
    }
    for (int64_t cut = 1; cut < 8; cut++) halo(8, 16, 4, cut);
    for (int64_t cut = 62; cut < 68; cut++) halo(130, 33, 4, cut);
    halo(70, 16, 2, 64);
    decode(20, 33, 4);
    decode(5, 16, 2);
    isolation();
    { /* more channels than fit one stripe of partial sums */
        const int64_t C = 14000;
        conv_case     c = make(3, C, 4, 1, d3, true, true);
        double       *y = take(3 * C, sizeof *y);

        run(&c);
        oracle(&c, y);
        CHECK_REL(c.y, y, 3 * C, 2e-6, "14000 channels");
        for (int64_t k = 13000; k < C;
             k += 111) { /* db = sum of dpre; w_{W-1} sees x itself: compare through one channel */
            double db = 0, dw3 = 0;

            for (int t = 0; t < 3; t++) {
                double pre = c.b[k], s;

                for (int j = 0; j < 4; j++)
                    pre += c.w[k * 4 + j] * (t - 3 + j >= 0 ? c.x[(t - 3 + j) * C + k] : c.head[(t + j) * C + k]);
                s = 1 / (1 + exp(-pre));
                db += c.dy[t * C + k] * s * (1 + pre * (1 - s));
                dw3 += c.dy[t * C + k] * s * (1 + pre * (1 - s)) * c.x[t * C + k];
            }
            CHECK(fabs(c.db[k] - 0.5 - db) < 3e-6 && fabs(c.dw[k * 4 + 3] - 0.5 - dw3) < 3e-6, "channel %lld",
                  (long long)k);
        }
        take_back();
    }
    return check_result();
}
