/* Rotary positions and the embedding table. */
/*TEST
np: 1
timeout: 60
*/
#include "tests/unit/oracle.h"

static const gr_ops *op = &gr_ops_cpu;

/* The table is rounded from the exact angle, also at 128K tokens: half a last place of 1. */
static void table(int64_t D, double theta)
{
    int32_t       pos[] = {0, 1, 2, 8191, 65536, 131071};
    const int64_t N = sizeof pos / sizeof pos[0], half = D / 2;
    float        *inv = take(half, sizeof *inv), *cs = poisoned(N * D);

    for (int64_t i = 0; i < half; i++) inv[i] = (float)pow(theta, -2.0 * (double)i / (double)D);
    op->rope_table(mat(cs, N, D), ints(pos, N), vec1(inv, half), NULL);
    for (int64_t t = 0; t < N; t++)
        for (int64_t i = 0; i < half; i++) {
            const double angle = pos[t] * (double)inv[i];

            CHECK(fabs(cs[t * D + i] - cos(angle)) <= 3.1e-8 && fabs(cs[t * D + half + i] - sin(angle)) <= 3.1e-8,
                  "position %d, pair %lld", pos[t], (long long)i);
        }
    take_back();
}

typedef struct rot {
    int64_t N, H, D;
    float  *x, *y, *cs;
    int     sign;
} rot;

static void rot_run(const void *ctx)
{
    const rot *c = ctx;

    memcpy(c->y, c->x, (size_t)(c->N * c->H * c->D) * sizeof *c->y);
    op->rope(gr_view3(c->y, GR_F32, c->N, c->H, c->D), mat(c->cs, c->N, c->D), c->sign, NULL);
}

static void rotate(int64_t N, int64_t H, int64_t D)
{
    const int64_t n = N * H * D, half = D / 2;
    rot      c = {.N = N, .H = H, .D = D, .x = uniform(n, 1, -1, 1), .y = poisoned(n), .cs = take(N * D, 4), .sign = 1};
    int32_t *pos = take(N, sizeof *pos);
    float   *inv = take(half, sizeof *inv);
    double  *want = take(n, sizeof *want), *x = widen(c.x, n);

    for (int64_t t = 0; t < N; t++) pos[t] = (int32_t)(t * 37 % 1000);
    for (int64_t i = 0; i < half; i++) inv[i] = (float)pow(1e4, -2.0 * (double)i / (double)D);
    op->rope_table(mat(c.cs, N, D), ints(pos, N), vec1(inv, half), NULL);
    for (int64_t t = 0; t < N; t++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t i = 0; i < half; i++) {
                const double  angle = pos[t] * (double)inv[i];
                const int64_t a = (t * H + h) * D + i, b = a + half;

                want[a] = x[a] * cos(angle) - x[b] * sin(angle);
                want[b] = x[b] * cos(angle) + x[a] * sin(angle);
            }
    rot_run(&c);
    CHECK_REL(c.y, want, n, 3e-7, "rope"); /* two products and a sum */
    check_bits("rope", rot_run, &c, c.y, n);
    op->rope(gr_view3(c.y, GR_F32, N, H, D), mat(c.cs, N, D), -1, NULL); /* backward is the transpose, so the inverse */
    CHECK_REL(c.y, x, n, 5e-7, "rope and back");
    take_back();
}

typedef struct emb {
    int64_t  N, V, D;
    int32_t *id;
    float   *dx, *start, *dt;
} emb;

static void emb_run(const void *ctx)
{
    const emb *c = ctx;

    memcpy(c->dt, c->start, (size_t)(c->V * c->D) * sizeof *c->dt);
    op->embed_back(mat(c->dt, c->V, c->D), mat(c->dx, c->N, c->D), ints(c->id, c->N), NULL);
}

static void embed(int64_t N, int64_t V, int64_t D)
{
    emb     c = {.N = N, .V = V, .D = D, .id = take(N, sizeof *c.id), .dx = uniform(N * D, 1, -1, 1)};
    float  *table_VD = uniform(V * D, 2, -1, 1), *x = poisoned(N * D);
    double *want = take(V * D, sizeof *want);

    c.start = uniform(V * D, 3, -1, 1), c.dt = take(V * D, sizeof *c.dt);
    for (int64_t t = 0; t < N; t++)
        c.id[t] = (int32_t)(t % 5 == 0 ? V - 1 : t * 7919 % V); /* one token again and again */
    op->embed(mat(x, N, D), mat(table_VD, V, D), ints(c.id, N), NULL);
    for (int64_t t = 0; t < N; t++)
        CHECK(memcmp(x + t * D, table_VD + c.id[t] * D, (size_t)D * sizeof *x) == 0, "row %lld", (long long)t);

    for (int64_t i = 0; i < V * D; i++) want[i] = c.start[i];
    for (int64_t t = 0; t < N; t++)
        for (int64_t i = 0; i < D; i++) want[c.id[t] * D + i] += c.dx[t * D + i];
    emb_run(&c);
    CHECK_REL(c.dt, want, V * D, 2e-6, "embed_back"); /* up to N / 5 additions in fp32 */
    check_bits("embed_back", emb_run, &c, c.dt, V * D);
    take_back();
}

/* A damaged id is seen in the result and touches nothing else. */
static void bad_ids(void)
{
    int32_t id[] = {1, 4, -1, INT32_MAX, INT32_MIN, 0};
    float  *table_VD = uniform(4 * 3, 1, -1, 1), *x = take(6 * 3, 4), *dt = take(4 * 3, 4);

    op->embed(mat(x, 6, 3), mat(table_VD, 4, 3), ints(id, 6), NULL);
    for (int t = 0; t < 6; t++) CHECK(isnan(x[3 * t + 2]) == (id[t] < 0 || id[t] > 3), "id %d", id[t]);
    op->embed_back(mat(dt, 4, 3), mat(table_VD, 4, 3), ints(id, 4), NULL);
    for (int i = 0; i < 12; i++) CHECK(dt[i] == (i / 3 == 1 ? table_VD[i - 3] : 0), "gradient %d", i);
    take_back();
}

int main(void)
{
    table(2, 1e4);
    table(16, 1e4);
    table(128, 5e6);
    rotate(1, 1, 2);
    rotate(3, 2, 16);
    rotate(67, 3, 128);
    embed(1, 1, 1);
    embed(67, 331, 33);
    embed(300, 50, 128);
    bad_ids();
    return check_result();
}
