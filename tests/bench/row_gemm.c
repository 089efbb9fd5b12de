/* The products of a training step: y = x W (NN), y = x W^T (NT), dW = dy^T x (TN).
 *
 *     row_gemm [plain] NN|NT|TN D THREADS      plain: OpenBLAS with the kernels it chooses by itself, for comparison
 */
/*ROW
id: C1
title: gemm-train: fp32 [2048, d] [d, 4d] through the backend's table
unit: GF/s
ceiling: fma $threads
for: op NN NT TN
for: d 576 1024 2048
for: threads 1 2
case: $op d=$d $threads thr | $op $d $threads | threads=$threads
peer: row_gemm plain
bar: * | ceiling | 0.85 | 0.95
*/
#include "kernels/backend.h"
#include "tests/bench/bench.h"
#include <cblas.h>

enum { M = 2048, SETS = 3, CHECKED = 8 }; /* three sets of operands: 60 MB and more, beyond L2 */

typedef struct gemm {
    const gr_ops *ops; /* NULL: plain */
    bool          ta, tb;
    int64_t       n, k;
    gr_tensor     a[SETS], b[SETS], c[SETS];
    int           turn, last;
} gemm;

static gr_status run(void *user)
{
    gemm     *g = user;
    const int i = g->last = g->turn++ % SETS;
    double    t0 = gr_now();

    if (g->ops)
        g->ops->gemm(g->c[i], g->a[i], g->ta, g->b[i], g->tb, 1.0f, 0.0f, NULL);
    else
        cblas_sgemm(CblasRowMajor, g->ta ? CblasTrans : CblasNoTrans, g->tb ? CblasTrans : CblasNoTrans, M, (int)g->n,
                    (int)g->k, 1.0f, g->a[i].data, (int)g->a[i].dim[1], g->b[i].data, (int)g->b[i].dim[1], 0.0f,
                    g->c[i].data, (int)g->n);
    bench_time("product", gr_now() - t0, 2.0 * M * (double)g->n * (double)g->k, 0);
    return GR_OK;
}

/* Some rows of the last product, summed in fp64. */
static gr_status check(void *user)
{
    const gemm  *g = user;
    const float *a = g->a[g->last].data, *b = g->b[g->last].data, *c = g->c[g->last].data;
    double       err = 0, top = 0;

    for (int r = 0; r < CHECKED; r++) {
        const int64_t i = (int64_t)(bench_uniform(9, (uint64_t)r, 0, 1) * M);

#pragma omp parallel for schedule(static) reduction(max : err, top)
        for (int64_t j = 0; j < g->n; j++) {
            double x = 0;

            for (int64_t k = 0; k < g->k; k++)
                x += (double)(g->ta ? a[k * M + i] : a[i * g->k + k]) * (g->tb ? b[j * g->k + k] : b[k * g->n + j]);
            err = fmax(err, fabs(x - (double)c[i * g->n + j]));
            top = fmax(top, fabs(x));
        }
    }
    bench_error("product", err / top, 1e-5);
    return GR_OK;
}

int main(int argc, char **argv)
{
    gemm       g = {0};
    const bool plain = argc == 5 && !strcmp(argv[1], "plain");
    char       note[160];
    gr_status  st = GR_OK;

    if (argc != 4 + plain) return 2;
    argv += plain;
    const int64_t d = strtol(argv[2], NULL, 10);
    const int     threads = (int)strtol(argv[3], NULL, 10);

    g.ta = argv[1][0] == 'T';
    g.tb = argv[1][1] == 'T';
    g.k = d;
    g.n = 4 * d;
    if (plain) {
        openblas_set_num_threads(threads);
        snprintf(note, sizeof note, "OpenBLAS as it comes: %s", openblas_get_corename());
    } else {
        GR_TRY(gr_backend_open("cpu", threads, &g.ops, note, sizeof note));
    }
    bench_name(note);
    for (int i = 0; i < SETS; i++) {
        g.a[i] = gr_view2(bench_floats(M * g.k), GR_F32, g.ta ? g.k : M, g.ta ? M : g.k);
        g.b[i] = gr_view2(bench_floats(g.k * g.n), GR_F32, g.tb ? g.n : g.k, g.tb ? g.k : g.n);
        g.c[i] = gr_view2(bench_floats(M * g.n), GR_F32, M, g.n);
        bench_fill(g.a[i].data, M * g.k, 2 * (uint64_t)i, -1, 1);
        bench_fill(g.b[i].data, g.k * g.n, 2 * (uint64_t)i + 1, -1, 1);
    }
    st = bench_serve(&(bench){.run = run, .check = check, .user = &g});
out:
    return gr_exit_code(st);
}
