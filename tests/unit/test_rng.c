/* Philox against its published vectors; uniforms, normals and permutations against what they claim. */
/*TEST
np: 1
timeout: 30
*/
#include "tests/check.h"
#include "util/rng.h"
#include <string.h>

/* Random123 1.14, tests/kat_vectors, philox4x32 10: counter, key, result. */
static const uint32_t known[3][10] = {
    {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
    {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
     0x6d5451fd},
    {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420,
     0x24126ea1},
};

static void test_moments(void)
{
    enum { N = 1000000 };
    double u1 = 0, u2 = 0, n1 = 0, n2 = 0, n4 = 0, both = 0, lag = 0, last = 0;
    int    outside = 0;

    for (uint64_t i = 0; i < N; i++) {
        const double u = gr_uniform(5, 6, i), z = gr_normal(5, 6, i);
        outside += !(u >= 0 && u < 1) || !isfinite(z);
        u1 += u;
        u2 += u * u;
        n1 += z;
        n2 += z * z;
        n4 += z * z * z * z;
        both += (u - 0.5) * z;
        lag += z * last;
        last = z;
    }
    /* five standard deviations of each mean */
    CHECK(outside == 0, "%d outside their range", outside);
    CHECK(fabs(u1 / N - 0.5) < 5 * 0.289e-3, "uniform: mean %g", u1 / N);
    CHECK(fabs(u2 / N - 1. / 3) < 5 * 0.298e-3, "uniform: second moment %g", u2 / N);
    CHECK(fabs(n1 / N) < 5e-3, "normal: mean %g", n1 / N);
    CHECK(fabs(n2 / N - 1) < 5 * 1.414e-3, "normal: variance %g", n2 / N);
    CHECK(fabs(n4 / N - 3) < 5 * 9.8e-3, "normal: fourth moment %g", n4 / N);
    CHECK(fabs(both / N) < 5 * 0.289e-3, "uniform and normal of one index correlate: %g", both / N);
    CHECK(fabs(lag / N) < 5e-3, "neighbours correlate: %g", lag / N);
    CHECK(gr_uniform(5, 6, 7) != gr_uniform(5, 7, 6) && gr_uniform(5, 6, 7) != gr_uniform(6, 5, 7),
          "arguments are mixed up");
}

static void test_permutations(void)
{
    enum { N = 3000 };
    static uint8_t seen[N];
    static int64_t count[8][8];
    int            same = 0;

    for (int64_t n = 1; n <= N; n += n < 70 ? 1 : 173) {
        memset(seen, 0, sizeof seen);
        for (int64_t i = 0; i < n; i++) {
            const int64_t j = gr_permute(11, 3, i, n);
            CHECK(j >= 0 && j < n && !seen[j], "n = %lld: %lld goes to %lld", (long long)n, (long long)i, (long long)j);
            if (j >= 0 && j < n) seen[j] = 1;
        }
    }
    for (int64_t n = 2; n <= 8; n++) { /* over many epochs, each image is equally likely */
        const int64_t trials = 8000;
        memset(count, 0, sizeof count);
        for (int64_t e = 0; e < trials; e++)
            for (int64_t i = 0; i < n; i++) count[i][gr_permute(1, (uint64_t)e, i, n)]++;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                CHECK(fabs((double)count[i][j] - (double)trials / (double)n) < 5.5 * sqrt((double)trials / (double)n),
                      "n = %lld: %lld goes to %lld %lld times of %lld", (long long)n, (long long)i, (long long)j,
                      (long long)count[i][j], (long long)trials);
    }
    for (int64_t i = 0; i < N; i++) same += gr_permute(11, 3, i, N) == gr_permute(11, 4, i, N);
    CHECK(same < 12, "two epochs agree at %d of %d places", same, N);
    const int64_t huge = INT64_MAX, j = gr_permute(1, 2, huge - 1, huge);
    CHECK(j >= 0 && j < huge && j != huge - 1, "the largest n");
    CHECK(gr_permute(1, 2, 5, 5) == -1 && gr_permute(1, 2, -1, 5) == -1 && gr_permute(1, 2, 0, 0) == -1, "outside");
}

int main(void)
{
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        gr_philox(known[i] + 4, known[i], out);
        CHECK(!memcmp(out, known[i] + 6, sizeof out), "vector %d: %08x %08x %08x %08x", i, out[0], out[1], out[2],
              out[3]);
    }
    CHECK(gr_stream_of("") == UINT64_C(0xCBF29CE484222325) && gr_stream_of("foobar") == UINT64_C(0x85944171F73967E8),
          "FNV-1a");
    test_moments();
    test_permutations();
    return check_result();
}
