/* bias and its gradient, against fp64. */
/*TEST
np: 1
timeout: 30
*/
#include "tests/unit/oracle.h"

static const gr_ops *op = &gr_ops_cpu;

typedef struct bias_case {
    int64_t R, D;
    float  *x, *b, *dy, *y, *db;
} bias_case;

static void run(const void *ctx)
{
    const bias_case *c = ctx;

    memcpy(c->y, c->x, (size_t)(c->R * c->D) * sizeof *c->y);
    for (int64_t i = 0; i < c->D; i++) c->db[i] = 0.5f; /* += */
    op->bias(mat(c->y, c->R, c->D), vec1(c->b, c->D), NULL);
    op->bias_back(vec1(c->db, c->D), mat(c->dy, c->R, c->D), NULL);
}

static void one(int64_t R, int64_t D)
{
    const int64_t n = R * D;
    bias_case c = {.R = R, .D = D, .x = uniform(n, 1, -2, 2), .b = uniform(D, 2, -2, 2), .dy = uniform(n, 3, -1, 2)};
    double   *y = take(n, sizeof *y), *db = take(D, sizeof *db);
    char      what[64];

    snprintf(what, sizeof what, "bias [%lld, %lld]", (long long)R, (long long)D);
    c.y = poisoned(n), c.db = poisoned(D);
    for (int64_t i = 0; i < D; i++) db[i] = 0.5;
    for (int64_t i = 0; i < n; i++) {
        y[i] = (double)c.x[i] + c.b[i % D];
        db[i % D] += c.dy[i];
    }
    run(&c);
    CHECK_REL(c.y, y, n, 1e-7, what);
    CHECK_REL(c.db, db, D, 1e-6, what); /* blocks of 64 rows in fp32 */
    check_bits(what, run, &c, c.y, n);
    check_bits(what, run, &c, c.db, D);
    op->bias_back(gr_none(), mat(c.dy, R, D), NULL); /* frozen */
    take_back();
}

int main(void)
{
    one(1, 1);
    one(3, 5);
    one(64, 32);
    one(2049, 17);
    return check_result();
}
