/* Makes OpenBLAS use the kernels this CPU deserves.
 *
 * A distribution's OpenBLAS knows the CPUs of its day. On a younger one it falls back to kernels for an older (0.3.21
 * takes an Emerald Rapids for a Prescott), at half or a fifth of the speed, and says nothing. Where the CPU has AVX-512
 * but the kernels do not use it, we select SkylakeX inside this process, with the two functions OpenBLAS itself runs
 * when it is loaded; a product is checked against plain loops and both are timed.
 *
 * The faster one stays, unless they are close: then the new one does, since a choice that hangs on noise would make the
 * bits of a run hang on noise.
 */
#include "kernels/cpu/cpu.h"
#include "util/mem.h"
#include <cblas.h>
#include <dlfcn.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 512, TIMES = 4 }; /* the product that is timed: 0.27 GFLOP, a few ms */

static const double GOOD_ENOUGH = 0.8; /* of the old speed; timing noise on a shared machine reaches 20 % */

#if defined(__x86_64__)
static bool cpu_has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#else
static bool cpu_has_avx512(void)
{
    return false;
}
#endif

static bool core_uses_avx512(const char *core)
{
    return strcmp(core, "SkylakeX") == 0 || strcmp(core, "Cooperlake") == 0 || strcmp(core, "SapphireRapids") == 0;
}

/* GF/s, best of TIMES. Leaves the product a b in c; all [SIDE, SIDE]. */
static double speed(float *c, const float *a, const float *b)
{
    double best = INFINITY;

    for (int i = 0; i < TIMES; i++) {
        const double t0 = omp_get_wtime();
        double       t;

        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, SIDE, SIDE, SIDE, 1, a, SIDE, b, SIDE, 0, c, SIDE);
        t = omp_get_wtime() - t0;
        if (t < best) best = t;
    }
    return 2e-9 * SIDE * SIDE * SIDE / best;
}

/* max |c - a b| / max |a b| over every 37th row, summed in fp64. */
static double product_error(const float *c, const float *a, const float *b)
{
    double err = 0, top = 0;

    for (int i = 0; i < SIDE; i += 37)
        for (int j = 0; j < SIDE; j++) {
            double x = 0;

            for (int k = 0; k < SIDE; k++) x += (double)a[i * SIDE + k] * b[k * SIDE + j];
            err = fmax(err, fabs(c[i * SIDE + j] - x));
            top = fmax(top, fabs(x));
            if (isnan(c[i * SIDE + j])) return INFINITY;
        }
    return err / top;
}

gr_status gr_cpu_blas_open(int threads, char *note, int n_note)
{
    void (*quit)(void) = NULL;
    void (*init)(void) = NULL;
    float     *a = NULL, *b, *c;
    char       old[64];
    const bool asked = getenv("OPENBLAS_CORETYPE") != NULL;
    bool       lost;
    double     before, after;
    gr_status  st = GR_OK;

    omp_set_num_threads(threads);
    openblas_set_num_threads(threads);
    snprintf(old, sizeof old, "%s", openblas_get_corename());
    lost = cpu_has_avx512() && !core_uses_avx512(old);
    snprintf(note, (size_t)n_note, "OpenBLAS %s%s%s, %d threads", old, asked ? " (set by OPENBLAS_CORETYPE)" : "",
             asked && lost ? " without the AVX-512 this CPU has" : "", threads);

    *(void **)&quit = dlsym(RTLD_DEFAULT, "gotoblas_dynamic_quit"); /* absent when built for one CPU only */
    *(void **)&init = dlsym(RTLD_DEFAULT, "gotoblas_dynamic_init");
    if (asked || !lost || !quit || !init) return GR_OK;

    GR_TRY(gr_alloc(&a, 3 * SIDE * SIDE, sizeof *a, "OpenBLAS selection"));
    b = a + SIDE * SIDE;
    c = b + SIDE * SIDE;
    for (int i = 0; i < SIDE * SIDE; i++) {
        a[i] = (float)(i % 13 - 6) * 0.1f;
        b[i] = (float)(i % 17 - 8) * 0.1f;
    }
    openblas_set_num_threads(1); /* threads that wait for each other measure the neighbours' load */
    before = speed(c, a, b);
    setenv("OPENBLAS_CORETYPE", "SkylakeX", 1);
    quit();
    init();
    unsetenv("OPENBLAS_CORETYPE");
    openblas_set_num_threads(1);
    after = speed(c, a, b);
    if (after > GOOD_ENOUGH * before && product_error(c, a, b) < 1e-5) {
        snprintf(note, (size_t)n_note, "OpenBLAS %s (re-selected from %s: %.0f -> %.0f GF/s a core), %d threads",
                 openblas_get_corename(), old, before, after, threads);
    } else {
        quit();
        init(); /* finds `old` again */
        snprintf(note, (size_t)n_note, "OpenBLAS %s (kept: %.0f GF/s a core, SkylakeX %.0f), %d threads",
                 openblas_get_corename(), before, after, threads);
    }
    openblas_set_num_threads(threads);
out:
    gr_free(&a);
    return st;
}
