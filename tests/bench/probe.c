/* What this machine can do at all: the ceilings that results are divided by.
 *
 * Reads lines from stdin and answers each with one number:
 *
 *     fma THREADS      fp32 FMA rate, operations (2 an FMA) a second: chains in registers, no memory
 *     copy THREADS     b = a, non-temporal stores where the machine has them: bytes read and written a second, DRAM
 *     stream THREADS   four streams read, three of them written in place, one addition each: the traffic of AdamW
 *     clock            cycles a second: a chain of dependent multiplications, 3 cycles each (on every x86 since 2008)
 *
 * Called as "probe mpi" it starts MPI and ends.
 */
#include "tests/bench/bench.h"
#include <omp.h>
#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif

/* Chains enough to cover latency (4 to 5 cycles) times issue (2 a cycle), few enough to stay in registers. */
#if defined(__AVX512F__)
enum { LANES = 16, CHAINS = 12 };
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#elif defined(__FMA__)
enum { LANES = 8, CHAINS = 12 };
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#else
enum { LANES = 4, CHAINS = 12 };
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

#if defined(__x86_64__)
#define PINNED(v) __asm__ volatile("" : "+v"(v))
#elif defined(__aarch64__)
#define PINNED(v) __asm__ volatile("" : "+w"(v))
#else
#define PINNED(v) ((void)0)
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));

enum { FMA_TURNS = 4 << 20, STREAM = 40 << 20, CLOCK_TURNS = 8 << 20 }; /* some 20 ms; 160 MiB a stream */

static volatile float sink; /* results go somewhere, or the compiler drops the work */

/* Named one by one: an array would live in memory. */
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)

static void fma_chains(void)
{
    const vec a = 1.0000001f - (vec){0}, b = 1e-9f - (vec){0};
#define START(i) vec c##i = (float)(i) - (vec){0};
    EACH(START)

    for (int t = 0; t < FMA_TURNS; t++) {
#define TURN(i)                                                                                                        \
    c##i = FMA(c##i, a, b);                                                                                            \
    PINNED(c##i); /* one instruction each, as it stands */
        EACH(TURN)
    }
#define ADD(i) +c##i
    sink = (EACH(ADD))[0];
}

static double fma_rate(int threads)
{
    const double t0 = gr_now();

#pragma omp parallel num_threads(threads)
    fma_chains();
    return 2.0 * LANES * CHAINS * FMA_TURNS * threads / (gr_now() - t0);
}

static double clock_rate(void)
{
    const double t0 = gr_now();
    uint64_t     x = 1;

    for (int i = 0; i < CLOCK_TURNS; i++)
#if defined(__x86_64__)
        __asm__ volatile("imul $3, %0, %0\n imul $3, %0, %0\n imul $3, %0, %0\n imul $3, %0, %0" : "+r"(x));
#else
        __asm__ volatile("" : "+r"(x));
#endif
    sink = (float)x;
    return 3.0 * 4 * CLOCK_TURNS / (gr_now() - t0);
}

/* Four streams of STREAM floats, made and first touched when they are asked for. */
static float *streams(int k)
{
    static float *x[4];

    if (!x[0])
        for (int j = 0; j < 4; j++) {
            x[j] = bench_floats(STREAM);
            bench_fill(x[j], STREAM, (uint64_t)j, -1, 1);
        }
    return x[k];
}

static double copy_rate(int threads)
{
    const float *a = streams(0);
    float       *b = streams(1);
    double       t0 = gr_now();

#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < STREAM; i += LANES) {
#if defined(__AVX512F__)
        _mm512_stream_ps(b + i, _mm512_load_ps(a + i));
#elif defined(__FMA__)
        _mm256_stream_ps(b + i, _mm256_load_ps(a + i));
#else
        *(vec *)(b + i) = *(const vec *)(a + i);
#endif
    }
    return 8.0 * STREAM / (gr_now() - t0);
}

static double stream_rate(int threads)
{
    float *p = streams(0), *m = streams(1), *v = streams(2), *g = streams(3);
    double t0 = gr_now();

#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < STREAM; i++) {
        const float gi = g[i];

        m[i] += gi;
        v[i] += gi;
        p[i] += gi;
    }
    return 28.0 * STREAM / (gr_now() - t0);
}

int main(int argc, char **argv)
{
    char line[64], what[16];
    int  threads;

    if (argc == 2 && !strcmp(argv[1], "mpi")) {
        gr_comm *c = NULL;

        if (gr_comm_init(&c, &argc, &argv) != GR_OK) return 1;
        gr_comm_finalize(&c);
        return 0;
    }
    while (fgets(line, sizeof line, stdin)) {
        threads = 1;
        if (sscanf(line, "%15s %d", what, &threads) < 1 || threads < 1) return 2;
        if (!strcmp(what, "fma"))
            printf("%.6g\n", fma_rate(threads));
        else if (!strcmp(what, "copy"))
            printf("%.6g\n", copy_rate(threads));
        else if (!strcmp(what, "stream"))
            printf("%.6g\n", stream_rate(threads));
        else if (!strcmp(what, "clock"))
            printf("%.6g\n", clock_rate());
        else
            return 2;
        fflush(stdout);
    }
    return 0;
}
