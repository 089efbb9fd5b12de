/* RMSNorm, l2 norm, unit norm and gated norm, forward and backward, against fp64. */
/*TEST
np: 1
timeout: 60
*/
#include "tests/unit/oracle.h"

static const gr_ops *op = &gr_ops_cpu;

enum { RMS, L2, UNIT, GATED };
static const char *const name[] = {"rmsnorm", "l2norm", "unit_norm", "gated_norm"};

/* One case; doubles for the oracle, floats for the operation. */
typedef struct norm_case {
    int     kind;
    int64_t R, D, G; /* G rows of weights, taken in turn */
    double  eps;
    double *x, *w, *z, *dy;
    float  *xf, *wf, *zf, *dyf, *y, *rstd, *dx, *dz, *dw;
    bool    in_place;
} norm_case;

static bool weighs(int kind)
{
    return kind == RMS || kind == GATED;
}

static void oracle(const norm_case *c, double *y, double *rstd)
{
    for (int64_t r = 0; r < c->R; r++) {
        const double *x = c->x + r * c->D;
        const double  ss = sum_product(x, x, c->D);
        const double  q =
            c->kind == UNIT ? 1 / (sqrt(ss) + c->eps) : 1 / sqrt((c->kind == L2 ? ss : ss / (double)c->D) + c->eps);

        rstd[r] = q;
        for (int64_t i = 0; i < c->D; i++) {
            const double z = c->kind == GATED ? c->z[r * c->D + i] : 0;
            y[r * c->D + i] = x[i] * q * (weighs(c->kind) ? c->w[r % c->G * c->D + i] : 1) *
                              (c->kind == GATED ? z / (1 + exp(-z)) : 1);
        }
    }
}

static double value(const void *ctx)
{
    const norm_case *c = ctx;
    static double    y[300 * 128 + 67 * 1500], rstd[300];

    oracle(c, y, rstd);
    return sum_product(y, c->dy, c->R * c->D);
}

static void run(const void *ctx)
{
    const norm_case *c = ctx;
    const int64_t    R = c->R, D = c->D, G = c->G;
    gr_tensor        x = mat(c->xf, R, D), w = G > 1 ? mat(c->wf, G, D) : vec1(c->wf, D), z = mat(c->zf, R, D),
              y = mat(c->y, R, D), rstd = vec1(c->rstd, R);
    gr_tensor dy = mat(c->dyf, R, D), dx = mat(c->dx, R, D), dz = mat(c->dz, R, D), dw = vec1(c->dw, G * D);

    for (int64_t i = 0; i < G * D; i++) c->dw[i] = 0.5f; /* += */
    if (c->in_place) {
        memcpy(c->dx, c->dyf, (size_t)(R * D) * sizeof(float));
        dy = dx;
    }
    switch (c->kind) {
    case RMS:
        op->rmsnorm(y, rstd, x, w, (float)c->eps, NULL);
        op->rmsnorm_back(dx, dw, dy, x, rstd, w, NULL);
        break;
    case L2:
        op->l2norm(y, rstd, x, (float)c->eps, NULL);
        op->l2norm_back(dx, dy, y, rstd, NULL);
        break;
    case UNIT:
        op->unit_norm(y, rstd, x, (float)c->eps, NULL);
        op->unit_norm_back(dx, dy, y, rstd, NULL);
        break;
    default:
        op->gated_norm(y, rstd, x, z, w, (float)c->eps, NULL);
        op->gated_norm_back(dx, dz, dw, dy, x, rstd, z, w, NULL);
    }
}

static void one(int kind, int64_t R, int64_t D, int64_t G, bool in_place)
{
    const int64_t n = R * D;
    norm_case     c = {.kind = kind, .R = R, .D = D, .G = G, .eps = kind == UNIT ? 0.25 : 1e-6f, .in_place = in_place};
    double       *y = take(n, sizeof *y), *rstd = take(R, sizeof *rstd);
    float        *half = take(G * D, sizeof *half);
    char          what[80];

    snprintf(what, sizeof what, "%s [%lld, %lld], %lld weights%s", name[kind], (long long)R, (long long)D, (long long)G,
             in_place ? " in place" : "");
    c.xf = uniform(n, 1, -2, 3), c.wf = uniform(G * D, 2, 0.5, 1.5), c.zf = uniform(n, 3, -4, 4),
    c.dyf = uniform(n, 4, -1, 1);
    c.x = widen(c.xf, n), c.w = widen(c.wf, G * D), c.z = widen(c.zf, n), c.dy = widen(c.dyf, n);
    c.y = poisoned(n), c.rstd = poisoned(R), c.dx = poisoned(n), c.dz = poisoned(n), c.dw = poisoned(G * D);
    for (int64_t i = 0; i < G * D; i++) half[i] = 0.5f;
    run(&c);
    oracle(&c, y, rstd);
    CHECK_REL(c.y, y, n, 2e-6, what); /* some ten roundings of 6e-8 */
    CHECK_REL(c.rstd, rstd, R, 5e-7, what);
    check_grad(what, c.dx, NULL, c.x, n, value, &c, 1e-5); /* cancels against the mean */
    if (weighs(kind)) check_grad(what, c.dw, half, c.w, G * D, value, &c, 5e-6);
    if (kind == GATED) check_grad(what, c.dz, NULL, c.z, n, value, &c, 5e-6);

    check_bits(what, run, &c, c.y, n);
    check_bits(what, run, &c, c.dx, n);
    if (weighs(kind)) check_bits(what, run, &c, c.dw, G * D);
    if (kind == GATED) check_bits(what, run, &c, c.dz, n);

    if (kind == RMS && !in_place) { /* a frozen weight: the same dx, nothing else touched */
        float *dx = poisoned(n);

        op->rmsnorm_back(mat(dx, R, D), gr_none(), mat(c.dyf, R, D), mat(c.xf, R, D), vec1(c.rstd, R),
                         G > 1 ? mat(c.wf, G, D) : vec1(c.wf, D), NULL);
        CHECK(memcmp(dx, c.dx, (size_t)n * sizeof *dx) == 0, "%s: dx depends on dw", what);
    }
    take_back();
}

/* Heads: x [N, H, D] normed per head with one w [D]. */
static void heads(void)
{
    const int64_t N = 5, H = 3, D = 16;
    float        *x = uniform(N * H * D, 7, -1, 1), *w = uniform(D, 8, 0, 1);
    float        *a = poisoned(N * H * D), *b = poisoned(N * H * D), *ra = poisoned(N * H), *rb = poisoned(N * H);

    op->rmsnorm(gr_view3(a, GR_F32, N, H, D), mat(ra, N, H), gr_view3(x, GR_F32, N, H, D), vec1(w, D), 1e-5f, NULL);
    op->rmsnorm(mat(b, N * H, D), vec1(rb, N * H), mat(x, N * H, D), vec1(w, D), 1e-5f, NULL);
    CHECK(memcmp(a, b, sizeof *a * (size_t)(N * H * D)) == 0 && memcmp(ra, rb, sizeof *ra * (size_t)(N * H)) == 0,
          "heads");
    op->l2norm(gr_view3(a, GR_F32, N, H, D), mat(ra, N, H), gr_view3(x, GR_F32, N, H, D), 1e-5f, NULL);
    op->l2norm(mat(b, N * H, D), vec1(rb, N * H), mat(x, N * H, D), 1e-5f, NULL);
    CHECK(memcmp(a, b, sizeof *a * (size_t)(N * H * D)) == 0, "heads, l2");
    take_back();
}

/* A row of zeros has a norm of sqrt(eps), not a division by zero. */
static void zeros(void)
{
    float x[16] = {0}, w[16], y[16], rstd[1], dy[16], dx[16];

    for (int i = 0; i < 16; i++) w[i] = dy[i] = 1;
    op->rmsnorm(mat(y, 1, 16), vec1(rstd, 1), mat(x, 1, 16), vec1(w, 16), 1e-6f, NULL);
    CHECK(y[3] == 0 && fabsf(rstd[0] - 1e3f) < 1, "rmsnorm of zeros");
    op->l2norm(mat(y, 1, 16), vec1(rstd, 1), mat(x, 1, 16), 1e-6f, NULL);
    op->l2norm_back(mat(dx, 1, 16), mat(dy, 1, 16), mat(y, 1, 16), vec1(rstd, 1), NULL);
    CHECK(y[3] == 0 && isfinite(dx[3]), "l2norm of zeros");
    op->unit_norm(mat(y, 1, 16), vec1(rstd, 1), mat(x, 1, 16), 1e-6f, NULL);
    op->unit_norm_back(mat(dx, 1, 16), mat(dy, 1, 16), mat(y, 1, 16), vec1(rstd, 1), NULL);
    CHECK(y[3] == 0 && fabsf(dx[3] - 1e6f) < 1, "unit_norm of zeros");
}

int main(void)
{
    static const int64_t shape[][2] = {{1, 1}, {1, 16}, {3, 33}, {67, 128}, {300, 128}, {67, 1500}};

    for (int kind = RMS; kind <= GATED; kind++)
        for (int i = 0; i < 6; i++)
            for (int in_place = 0; in_place <= (kind != GATED); in_place++)
                one(kind, shape[i][0], shape[i][1], 1, in_place);
    one(RMS, 300, 16, 3, false);
    one(RMS, 66, 33, 66, true);
    heads();
    zeros();
    return check_result();
}
