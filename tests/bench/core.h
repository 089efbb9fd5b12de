/** @file core.h  What the rows about a mixer's core share: random operands, and a rep of forward and backward. */
#ifndef GR_TESTS_BENCH_CORE_H
#define GR_TESTS_BENCH_CORE_H
#include "kernels/mixer.h"
#include "tests/bench/bench.h"

enum { CORE_SETS = 2 }; /* of operands, used in turn; one alone is far larger than L2 */

typedef struct core_problem {
    const gr_mixer_core *core;
    int                  n, n_gate;
    int32_t              doc[2];
    gr_seq               seq;
    gr_core_args         set[CORE_SETS];
    gr_arena            *scratch;
    double               flop, flop_both; /* of forward, of forward and backward */
    int                  turn, last;
} core_problem;

static inline gr_tensor core_take(int64_t n, int64_t heads, int64_t width)
{
    return gr_view3(bench_floats(n * heads * width), GR_F32, n, heads, width);
}

/* Operands of one document of n tokens, not filled. */
static inline void core_open(core_problem *p, int n, int heads, int kv_heads, int width, int n_gate, bool aux)
{
    int32_t *pos = bench_memory((uint64_t)n, sizeof *pos);

    for (int i = 0; i < n; i++) pos[i] = i;
    p->n = n;
    p->n_gate = n_gate;
    p->doc[1] = n;
    p->seq = (gr_seq){n, 1, p->doc, gr_view1(p->doc, GR_I32, 2), gr_view1(pos, GR_I32, n)};
    for (int s = 0; s < CORE_SETS; s++) {
        gr_core_args *a = &p->set[s];

        *a = (gr_core_args){.seq = &p->seq,
                            .n_head = heads,
                            .n_kv_head = kv_heads,
                            .k_dim = width,
                            .v_dim = width,
                            .chunk = 64,
                            .scale = 1.0f / sqrtf((float)width),
                            .scratch = p->scratch};
        a->q = core_take(n, heads, width);
        a->k = core_take(n, kv_heads, width);
        a->v = core_take(n, kv_heads, width);
        a->o = core_take(n, heads, width);
        a->d_o = core_take(n, heads, width);
        a->dq = core_take(n, heads, width);
        a->dk = core_take(n, kv_heads, width);
        a->dv = core_take(n, kv_heads, width);
        a->aux = aux ? gr_view2(bench_floats((int64_t)n * heads), GR_F32, n, heads) : gr_none();
        for (int g = 0; g < GR_MIXER_GATES; g++) {
            a->gate[g] = g < n_gate ? gr_view2(bench_floats((int64_t)n * heads), GR_F32, n, heads) : gr_none();
            a->dgate[g] = g < n_gate ? gr_view2(bench_floats((int64_t)n * heads), GR_F32, n, heads) : gr_none();
        }
        bench_fill(a->q.data, gr_count(a->q), 16 * (uint64_t)s, -1.7f, 1.7f); /* variance 1 */
        bench_fill(a->k.data, gr_count(a->k), 16 * (uint64_t)s + 1, -1.7f, 1.7f);
        bench_fill(a->v.data, gr_count(a->v), 16 * (uint64_t)s + 2, -1.7f, 1.7f);
        bench_fill(a->d_o.data, gr_count(a->d_o), 16 * (uint64_t)s + 3, -1.7f, 1.7f);
    }
}

static inline gr_status core_run(void *user)
{
    core_problem       *p = user;
    const int           i = p->last = p->turn++ % CORE_SETS;
    const gr_core_args *a = &p->set[i];
    const double        t0 = gr_now();
    double              t1, t2;

    p->core->forward(a, NULL);
    t1 = gr_now();
    p->core->backward(a, NULL);
    t2 = gr_now();
    bench_time("fwd", t1 - t0, p->flop, p->n);
    bench_time("fwd+bwd", t2 - t0, p->flop_both, p->n);
    return gr_arena_reset(p->scratch);
}
#endif
