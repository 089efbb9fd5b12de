/** @file bench.h  What a contestant of the benchmark is: a program that sets up once and works on demand.
 *
 * The harness (bench.py) starts it, and then writes words to its stdin, a line each; it answers each with lines on
 * stdout, the last of which is "done":
 *
 *     ready      nothing: it has set up
 *     run        one repetition, timed                   time KEY SECONDS WORK COUNT     number KEY PERCENT
 *     ceiling    the same work at the machine's limit    time KEY SECONDS WORK COUNT
 *     check      compare the output with fp64            error KEY VALUE TOLERANCE
 *
 * WORK is floating point operations or bytes, in the unit of the ceiling; COUNT is what the row counts (tokens), or 0.
 * End of input ends it. With several ranks, rank 0 talks and the others follow.
 */
#ifndef GR_TESTS_BENCH_H
#define GR_TESTS_BENCH_H
#include "comm/comm.h"
#include "kernels/backend.h"
#include "util/clock.h"
#include "util/mem.h"
#include "util/rng.h"
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bench {
    gr_comm *comm; /* or NULL */
    gr_status (*run)(void *user);
    gr_status (*ceiling)(void *user); /* NULL: the harness has a probe for it */
    gr_status (*check)(void *user);
    void *user;
} bench;

static bool bench_mute; /* ranks other than 0 */

static inline void bench_time(const char *key, double seconds, double work, double count)
{
    if (!bench_mute) printf("time %s %.9g %.9g %.9g\n", key, seconds, work, count);
}

static inline void bench_number(const char *key, double value)
{
    if (!bench_mute) printf("number %s %.9g\n", key, value);
}

static inline void bench_error(const char *key, double value, double tolerance)
{
    if (!bench_mute) printf("error %s %.3g %.3g\n", key, value, tolerance);
}

/* The cpu backend with the threads that the harness chose. */
static inline gr_status bench_backend(const gr_ops **ops, char *note, int n_note)
{
    const char *threads = getenv("OMP_NUM_THREADS");

    return gr_backend_open("cpu", threads ? (int)strtol(threads, NULL, 10) : 1, ops, note, n_note);
}

static inline void bench_name(const char *name)
{
    if (!bench_mute) printf("name %s\n", name);
}

/* [collective] Answer until the input ends. */
static inline gr_status bench_serve(const bench *b)
{
    gr_status st = GR_OK;
    char      word[32];

    bench_mute = gr_comm_rank(b->comm) != 0;
    for (;;) {
        gr_status (*act)(void *) = NULL;
        bool ready;

        memset(word, 0, sizeof word);
        if (!bench_mute && !fgets(word, sizeof word, stdin)) word[0] = '\0';
        gr_bcast(b->comm, word, sizeof word, 0);
        if (!word[0]) break;
        ready = !strcmp(word, "ready\n");
        if (!strcmp(word, "run\n")) act = b->run;
        if (!strcmp(word, "ceiling\n")) act = b->ceiling;
        if (!strcmp(word, "check\n")) act = b->check;
        GR_CHECK(act || ready, GR_ERR_ARG, "no such word: %s", word);
        if (act) GR_TRY(act(b->user));
        if (!bench_mute) printf("done\n");
        fflush(stdout);
    }
out:
    return st;
}

/* Data is fresh in every run of the benchmark: the harness draws the seed. */
static inline uint64_t bench_seed(void)
{
    const char *s = getenv("GR_BENCH_SEED");

    return s ? strtoull(s, NULL, 10) : 1;
}

static inline uint64_t bench_mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Uniform in [low, high), a function of (seed, stream, i); much faster than util/rng.h, and random enough for operands.
 */
static inline float bench_uniform(uint64_t stream, uint64_t i, float low, float high)
{
    const uint64_t z = bench_mix((bench_seed() + stream) * 0x9E3779B97F4A7C15u + i);

    return low + (high - low) * (float)(z >> 40) * 0x1p-24f;
}

/* x[i] = bench_uniform(stream, first + i, low, high): a part of something larger. */
static inline void bench_fill_part(float *x, int64_t n, uint64_t stream, uint64_t first, float low, float high)
{
    const uint64_t from = (bench_seed() + stream) * 0x9E3779B97F4A7C15u + first;

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) x[i] = low + (high - low) * (float)(bench_mix(from + (uint64_t)i) >> 40) * 0x1p-24f;
}

static inline void bench_fill(float *x, int64_t n, uint64_t stream, float low, float high)
{
    bench_fill_part(x, n, stream, 0, low, high);
}

/* Counted memory that may be touched; the program ends when there is none. */
static inline void *bench_memory(uint64_t n, uint64_t size)
{
    void *p = NULL;

    if (gr_alloc(&p, n, size, "benchmark") != GR_OK) exit(1);
    return p;
}

static inline float *bench_floats(int64_t n)
{
    return bench_memory((uint64_t)n, sizeof(float));
}
#endif
