/* SwiGLU, sigmoid, decay, softplus and skip, forward and backward, against fp64. */
/*TEST
np: 1
timeout: 60
*/
#include "tests/unit/oracle.h"

static const gr_ops *op = &gr_ops_cpu;

/* ---- swiglu: h = silu(g) u ---- */

typedef struct glu {
    int64_t n;
    double *g, *u, *dh;
    float  *gf, *uf, *dhf, *h, *dg, *du;
} glu;

static double glu_value(const void *ctx)
{
    const glu *c = ctx;
    double     s = 0;

    for (int64_t i = 0; i < c->n; i++) s += c->dh[i] * c->g[i] / (1 + exp(-c->g[i])) * c->u[i];
    return s;
}

static void glu_run(const void *ctx)
{
    const glu    *c = ctx;
    const int64_t n = c->n;

    op->swiglu(vec1(c->h, n), vec1(c->gf, n), vec1(c->uf, n), NULL);
    op->swiglu_back(vec1(c->dg, n), vec1(c->du, n), vec1(c->dhf, n), vec1(c->gf, n), vec1(c->uf, n), NULL);
}

static void swiglu(int64_t n)
{
    glu     c = {.n = n, .gf = uniform(n, 1, -9, 9), .uf = uniform(n, 2, -2, 2), .dhf = uniform(n, 3, -1, 1)};
    double *h = take(n, sizeof *h);

    c.g = widen(c.gf, n), c.u = widen(c.uf, n), c.dh = widen(c.dhf, n);
    c.h = poisoned(n), c.dg = poisoned(n), c.du = poisoned(n);
    for (int64_t i = 0; i < n; i++) h[i] = c.g[i] / (1 + exp(-c.g[i])) * c.u[i];
    glu_run(&c);
    CHECK_REL(c.h, h, n, 1e-6, "swiglu");
    check_grad("swiglu dg", c.dg, NULL, c.g, n, glu_value, &c, 2e-6);
    check_grad("swiglu du", c.du, NULL, c.u, n, glu_value, &c, 2e-6);
    check_bits("swiglu", glu_run, &c, c.h, n);
    check_bits("swiglu dg", glu_run, &c, c.dg, n);
    check_bits("swiglu du", glu_run, &c, c.du, n);

    op->swiglu_back(vec1(c.gf, n), vec1(c.uf, n), vec1(c.dhf, n), vec1(c.gf, n), vec1(c.uf, n), NULL);
    CHECK(memcmp(c.gf, c.dg, (size_t)n * 4) == 0 && memcmp(c.uf, c.du, (size_t)n * 4) == 0, "swiglu_back in place");
    take_back();
}

/* ---- y = scale sigmoid(x) ---- */

typedef struct sig {
    int64_t n;
    double  scale, *x, *dy;
    float  *xf, *dyf, *y, *dx;
} sig;

static double sig_value(const void *ctx)
{
    const sig *c = ctx;
    double     s = 0;

    for (int64_t i = 0; i < c->n; i++) s += c->dy[i] * c->scale / (1 + exp(-c->x[i]));
    return s;
}

static void sig_run(const void *ctx)
{
    const sig *c = ctx;

    op->sigmoid(vec1(c->y, c->n), vec1(c->xf, c->n), (float)c->scale, NULL);
    op->sigmoid_back(vec1(c->dx, c->n), vec1(c->dyf, c->n), vec1(c->y, c->n), (float)c->scale, NULL);
}

static void sigmoid(int64_t n, double scale)
{
    sig     c = {.n = n, .scale = scale, .xf = uniform(n, 1, -6, 6), .dyf = uniform(n, 2, -1, 1)};
    double *y = take(n, sizeof *y);

    c.x = widen(c.xf, n), c.dy = widen(c.dyf, n), c.y = poisoned(n), c.dx = poisoned(n);
    for (int64_t i = 0; i < n; i++) y[i] = scale / (1 + exp(-c.x[i]));
    sig_run(&c);
    CHECK_REL(c.y, y, n, 5e-7, "sigmoid");
    check_grad("sigmoid", c.dx, NULL, c.x, n, sig_value, &c, 2e-6);
    check_bits("sigmoid", sig_run, &c, c.dx, n);
    take_back();
}

/* ---- g = -exp(a_log) softplus(a + dt_bias) ---- */

typedef struct dec {
    int64_t N, H;
    double *a, *a_log, *bias, *dg;
    float  *af, *a_logf, *biasf, *dgf, *g, *da, *da_log, *dbias;
} dec;

static void dec_oracle(const dec *c, double *g)
{
    for (int64_t t = 0; t < c->N; t++)
        for (int64_t h = 0; h < c->H; h++) {
            const double x = c->a[t * c->H + h] + c->bias[h];
            g[t * c->H + h] = -exp(c->a_log[h]) * (fmax(x, 0) + log1p(exp(-fabs(x))));
        }
}

static double dec_value(const void *ctx)
{
    const dec    *c = ctx;
    static double g[40000];

    dec_oracle(c, g);
    return sum_product(g, c->dg, c->N * c->H);
}

static void dec_run(const void *ctx)
{
    const dec    *c = ctx;
    const int64_t N = c->N, H = c->H;

    for (int64_t h = 0; h < H; h++) c->da_log[h] = 0.5f, c->dbias[h] = -0.25f; /* += */
    op->decay(mat(c->g, N, H), mat(c->af, N, H), vec1(c->a_logf, H), vec1(c->biasf, H), NULL);
    op->decay_back(mat(c->da, N, H), vec1(c->da_log, H), vec1(c->dbias, H), mat(c->dgf, N, H), mat(c->g, N, H),
                   mat(c->af, N, H), vec1(c->a_logf, H), vec1(c->biasf, H), NULL);
}

static void decay(int64_t N, int64_t H)
{
    const int64_t n = N * H;
    dec           c = {
                  .N = N, .H = H, .af = uniform(n, 1, -6, 6), .a_logf = uniform(H, 2, -3, 2.7), .biasf = uniform(H, 3, -7, 1)};
    double *g = take(n, sizeof *g);
    float  *half = take(H, sizeof *half), *quarter = take(H, sizeof *quarter), *da = poisoned(n);

    c.dgf = uniform(n, 4, -1, 1), c.a = widen(c.af, n), c.a_log = widen(c.a_logf, H), c.bias = widen(c.biasf, H);
    c.dg = widen(c.dgf, n), c.g = poisoned(n), c.da = poisoned(n), c.da_log = poisoned(H), c.dbias = poisoned(H);
    for (int64_t h = 0; h < H; h++) half[h] = 0.5f, quarter[h] = -0.25f;
    dec_run(&c);
    dec_oracle(&c, g);
    CHECK_REL(c.g, g, n, 1e-6, "decay");
    for (int64_t i = 0; i < n; i++)
        CHECK(c.g[i] <= 0 && fabs(c.g[i] - g[i]) <= 1e-6 * fabs(g[i]), "decay of element %lld", (long long)i);
    check_grad("decay da", c.da, NULL, c.a, n, dec_value, &c, 2e-6);
    check_grad("decay da_log", c.da_log, half, c.a_log, H, dec_value, &c, 1e-5); /* sums of mixed sign */
    check_grad("decay ddt_bias", c.dbias, quarter, c.bias, H, dec_value, &c, 1e-5);
    check_bits("decay da", dec_run, &c, c.da, n);
    check_bits("decay da_log", dec_run, &c, c.da_log, H);
    check_bits("decay ddt_bias", dec_run, &c, c.dbias, H);

    op->decay_back(mat(da, N, H), gr_none(), gr_none(), mat(c.dgf, N, H), mat(c.g, N, H), mat(c.af, N, H),
                   vec1(c.a_logf, H), vec1(c.biasf, H), NULL);
    CHECK(memcmp(da, c.da, (size_t)n * sizeof *da) == 0, "decay_back of frozen parameters");
    take_back();
}

/* ---- softplus ---------------------------------------------------------------------------------------------------- */

typedef struct step_size {
    int64_t N, H;
    double *x, *b, *dy;
    float  *xf, *bf, *dyf, *y, *dx, *db;
    bool    in_place;
} step_size;

static void step_oracle(const step_size *c, double *y)
{
    for (int64_t i = 0; i < c->N * c->H; i++) {
        const double x = c->x[i] + c->b[i % c->H];
        y[i] = fmax(x, 0) + log1p(exp(-fabs(x)));
    }
}

static double step_value(const void *ctx)
{
    const step_size *c = ctx;
    static double    y[40000];

    step_oracle(c, y);
    return sum_product(y, c->dy, c->N * c->H);
}

static void step_run(const void *ctx)
{
    const step_size *c = ctx;
    const int64_t    N = c->N, H = c->H;
    const float     *dy = c->dyf;

    for (int64_t h = 0; h < H; h++) c->db[h] = 0.5f; /* += */
    if (c->in_place) dy = memcpy(c->dx, c->dyf, (size_t)(N * H) * sizeof(float));
    op->softplus(mat(c->y, N, H), mat(c->xf, N, H), vec1(c->bf, H), NULL);
    op->softplus_back(mat(c->dx, N, H), vec1(c->db, H), mat((float *)dy, N, H), mat(c->xf, N, H), vec1(c->bf, H), NULL);
}

static void softplus(int64_t N, int64_t H, bool in_place)
{
    const int64_t n = N * H;
    step_size     c = {.N = N, .H = H, .in_place = in_place, .xf = uniform(n, 1, -9, 6), .bf = uniform(H, 2, -7, 1)};
    double       *y = take(n, sizeof *y);
    float        *half = take(H, sizeof *half), *dx = poisoned(n);

    c.dyf = uniform(n, 3, -1, 1), c.x = widen(c.xf, n), c.b = widen(c.bf, H), c.dy = widen(c.dyf, n);
    c.y = poisoned(n), c.dx = poisoned(n), c.db = poisoned(H);
    for (int64_t h = 0; h < H; h++) half[h] = 0.5f;
    step_run(&c);
    step_oracle(&c, y);
    for (int64_t i = 0; i < n; i++) CHECK(fabs(c.y[i] - y[i]) <= 1e-6 * y[i], "softplus of element %lld", (long long)i);
    check_grad("softplus dx", c.dx, NULL, c.x, n, step_value, &c, 2e-6);
    check_grad("softplus db", c.db, half, c.b, H, step_value, &c, 1e-5); /* sums of mixed sign */
    check_bits("softplus dx", step_run, &c, c.dx, n);
    check_bits("softplus db", step_run, &c, c.db, H);

    op->softplus_back(mat(dx, N, H), gr_none(), mat(c.dyf, N, H), mat(c.xf, N, H), vec1(c.bf, H), NULL);
    CHECK(memcmp(dx, c.dx, (size_t)n * sizeof *dx) == 0, "softplus_back of a frozen bias");
    take_back();
}

/* ---- skip -------------------------------------------------------------------------------------------------------- */

typedef struct past {
    int64_t N, H, G, D;
    double *x, *d, *dy;
    float  *xf, *df, *dyf, *y, *dx, *dd;
} past;

static void skip_oracle(const past *c, double *y) /* += */
{
    for (int64_t i = 0; i < c->N * c->H * c->D; i++) {
        const int64_t t = i / (c->H * c->D), h = i / c->D % c->H, g = h / (c->H / c->G);
        y[i] += c->d[h] * c->x[(t * c->G + g) * c->D + i % c->D];
    }
}

static double skip_value(const void *ctx)
{
    const past   *c = ctx;
    static double y[80000];

    memset(y, 0, sizeof y);
    skip_oracle(c, y);
    return sum_product(y, c->dy, c->N * c->H * c->D);
}

static void skip_run(const void *ctx)
{
    const past     *c = ctx;
    const gr_tensor x = gr_view3(c->xf, GR_F32, c->N, c->G, c->D), dx = gr_view3(c->dx, GR_F32, c->N, c->G, c->D);
    const gr_tensor dy = gr_view3(c->dyf, GR_F32, c->N, c->H, c->D), y = gr_view3(c->y, GR_F32, c->N, c->H, c->D);

    for (int64_t h = 0; h < c->H; h++) c->dd[h] = 0.5f; /* += */
    for (int64_t i = 0; i < gr_count(y); i++) c->y[i] = -0.25f;
    for (int64_t i = 0; i < gr_count(dx); i++) c->dx[i] = 0.5f;
    op->skip(y, x, vec1(c->df, c->H), NULL);
    op->skip_back(dx, vec1(c->dd, c->H), dy, x, vec1(c->df, c->H), NULL);
}

static void skip(int64_t N, int64_t H, int64_t G, int64_t D)
{
    const int64_t n = N * H * D, m = N * G * D;
    past          c = {.N = N, .H = H, .G = G, .D = D, .xf = uniform(m, 1, -2, 2), .df = uniform(H, 2, 0.5, 1.5)};
    double       *y = take(n, sizeof *y);
    float        *half = take(m + H, sizeof *half), *dx = take(m, sizeof *dx);

    c.dyf = uniform(n, 3, -1, 1), c.x = widen(c.xf, m), c.d = widen(c.df, H), c.dy = widen(c.dyf, n);
    c.y = poisoned(n), c.dx = poisoned(m), c.dd = poisoned(H);
    for (int64_t i = 0; i < m + H; i++) half[i] = 0.5f;
    for (int64_t i = 0; i < m; i++) dx[i] = 0.5f;
    for (int64_t i = 0; i < n; i++) y[i] = -0.25;
    skip_run(&c);
    skip_oracle(&c, y);
    CHECK_REL(c.y, y, n, 2e-7, "skip");
    check_grad("skip dx", c.dx, half, c.x, m, skip_value, &c, 2e-6);
    check_grad("skip dd", c.dd, half, c.d, H, skip_value, &c, 1e-5); /* sums of mixed sign */
    check_bits("skip y", skip_run, &c, c.y, n);
    check_bits("skip dx", skip_run, &c, c.dx, m);
    check_bits("skip dd", skip_run, &c, c.dd, H);

    op->skip_back(gr_view3(dx, GR_F32, N, G, D), gr_none(), gr_view3(c.dyf, GR_F32, N, H, D),
                  gr_view3(c.xf, GR_F32, N, G, D), vec1(c.df, H), NULL);
    CHECK(memcmp(dx, c.dx, (size_t)m * sizeof *dx) == 0, "skip_back of a frozen weight");
    take_back();
}

int main(void)
{
    static const int64_t size[] = {1, 3, 67, 33000};

    for (int i = 0; i < 4; i++) {
        swiglu(size[i]);
        sigmoid(size[i], 1);
        sigmoid(size[i], 2);
    }
    decay(1, 1);
    decay(3, 5);
    decay(67, 16);
    decay(2500, 9);
    for (int in_place = 0; in_place < 2; in_place++) {
        softplus(1, 1, in_place);
        softplus(67, 5, in_place);
        softplus(2500, 9, in_place);
    }
    skip(1, 1, 1, 1);
    skip(67, 6, 2, 5);
    skip(130, 4, 1, 33);
    skip(300, 8, 8, 32);
    return check_result();
}
