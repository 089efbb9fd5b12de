/* SwiGLU, sigmoid and decay, forward and backward, against fp64. */
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
    return check_result();
}
