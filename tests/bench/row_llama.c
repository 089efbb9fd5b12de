/* A whole training step, forward, loss, backward and AdamW, fp32, batch 1, through the model room.
 *
 *     row_llama SHAPE T
 */
/*ROW
id: C9
title: llama-step: forward, backward, AdamW; fp32, batch 1
unit: tok/s
ceiling: fma 2
case: SmolLM2-135M T=512 | smollm2 512
case: SmolLM2-135M T=2048 | smollm2 2048
case: Qwen3-0.6B/4L T=2048 | qwen3-0.6b-4l 2048
case: Qwen3-8B/1L T=1024 | qwen3-8b-1l 1024
peer: peer_llama.py
bar: Qwen3-8B* step | peer | 1.0 | 1.2
bar: * step | peer | 1.10 | 1.5
*/
#include "loss/token.h"
#include "optim/optim.h"
#include "tests/bench/decoder.h"
#include "tests/bench/shapes.h"

enum { TEXTS = 3, CHECKED = 8 }; /* sequences used in turn; tokens compared with fp64 */

typedef struct step {
    gr_model *m;
    int       n, turn;
    int64_t   updates;
    int32_t  *token[TEXTS], *target[TEXTS], *pos, doc[2];
    gr_seq    seq;
    double    sum[3], norm;
    double    flop;
    float    *h; /* [CHECKED, hidden] of the pass that is checked, or NULL */
} step;

/* Sum of the cross-entropies of text i; with `learn` every gradient, too. */
static gr_status loss(step *s, int i, bool learn)
{
    gr_status        st = GR_OK;
    gr_model        *m = s->m;
    gr_param        *head = &m->params->p[m->at.head];
    const gr_targets t = {
        .id = gr_view1(s->target[i], GR_I32, s->n), .top_id = gr_none(), .top_lp = gr_none(), .tail_lp = gr_none()};
    const gr_tensor ids = gr_view1(s->token[i], GR_I32, s->n);
    gr_tensor       h, dh = gr_none();

    memset(s->sum, 0, sizeof s->sum);
    GR_TRY(gr_model_forward(m, ids, &s->seq, learn, NULL, NULL, &h));
    if (s->h) memcpy(s->h, h.data, CHECKED * (size_t)m->spec.hidden * sizeof *s->h);
    if (learn) dh = gr_take2(m->keep, GR_F32, s->n, m->spec.hidden);
    GR_TRY(gr_arena_status(m->keep));
    GR_TRY(gr_token_loss(m->ops, m->scratch, dh, learn ? head->grad : gr_none(), gr_view1(s->sum, GR_F64, 3), h,
                         head->value, &t));
    if (learn) GR_TRY(gr_model_backward(m, ids, &s->seq, dh));
    GR_TRY(gr_model_reset(m));
out:
    return st;
}

static gr_status run(void *user)
{
    gr_status          st = GR_OK;
    step              *s = user;
    const gr_cfg_optim optim = {.lr = 1e-7,
                                /* it should not learn the three texts by heart */ .beta1 = 0.9,
                                .beta2 = 0.999,
                                .eps = 1e-8,
                                .weight_decay = 0.01,
                                .clip = 0};
    const int          i = s->turn++ % TEXTS;
    const double       t0 = gr_now();
    double             t1, t2;

    gr_params_zero_grad(s->m->params);
    GR_TRY(loss(s, i, true));
    t1 = gr_now();
    gr_adamw_step(s->m->params, &optim, optim.lr, s->updates++, 1.0 / s->n, 0);
    t2 = gr_now();
    bench_time("step", t2 - t0, s->flop, s->n);
    bench_time("fwd+bwd", t1 - t0, s->flop, s->n);
out:
    return st;
}

/* Forward: hidden states of the first tokens against fp64. Backward: all parameters moved along the gradient against
 * the change of the loss, a central difference; the step changes each loss by about 1e-3. */
static gr_status check(void *user)
{
    gr_status  st = GR_OK;
    step      *s = user;
    gr_params *ps = s->m->params;
    double    *want = decoder_doubles(CHECKED * s->m->spec.hidden), err = 0, top = 0, norm2 = 0, side[2], eps;

    s->h = bench_floats(CHECKED * s->m->spec.hidden);
    gr_params_zero_grad(ps);
    GR_TRY(loss(s, 0, true));
    decoder_forward(want, s->m, s->token[0], CHECKED);
    for (int64_t i = 0; i < CHECKED * s->m->spec.hidden; i++) {
        err = fmax(err, fabs((double)s->h[i] - want[i]));
        top = fmax(top, fabs(want[i]));
    }
    bench_error("h", isfinite(s->sum[0]) ? err / top : INFINITY, 1e-4);
    for (int64_t u = 0; u < ps->n_unit; u++) {
        double one = 0;
        ps->ops->sumsq(gr_view1(&one, GR_F64, 1), ps->unit[u].grad, NULL);
        norm2 += one;
    }
    eps = 1e-3 * s->n / norm2;
    for (int way = 0; way < 2; way++) {
        for (int64_t u = 0; u < ps->n_unit; u++) { /* m keeps the parameters meanwhile */
            float *w = ps->unit[u].value.data, *g = ps->unit[u].grad.data, *old = ps->unit[u].m.data;

            memcpy(old, w, (size_t)ps->unit[u].n * sizeof *w);
            for (int64_t i = 0; i < ps->unit[u].n; i++)
                w[i] = (float)((double)old[i] + (way ? -eps : eps) * (double)g[i]);
        }
        GR_TRY(loss(s, 0, false));
        side[way] = s->sum[0];
        for (int64_t u = 0; u < ps->n_unit; u++)
            memcpy(ps->unit[u].value.data, ps->unit[u].m.data, (size_t)ps->unit[u].n * sizeof(float));
    }
    bench_error("gradient", fabs((side[0] - side[1]) / (2 * eps * norm2) - 1), 1e-2);
out:
    gr_free(&s->h);
    gr_free(&want);
    return st;
}

static void draw_texts(step *s)
{
    for (int i = 0; i < TEXTS; i++) {
        s->token[i] = bench_memory((uint64_t)s->n, sizeof *s->token[i]);
        s->target[i] = bench_memory((uint64_t)s->n, sizeof *s->target[i]);
        for (int j = 0; j < s->n; j++) {
            s->token[i][j] = (int32_t)(bench_uniform(2 * (uint64_t)i, (uint64_t)j, 0, 1) * (float)s->m->spec.vocab);
            s->target[i][j] =
                (int32_t)(bench_uniform(2 * (uint64_t)i + 1, (uint64_t)j, 0, 1) * (float)s->m->spec.vocab);
        }
    }
    s->pos = bench_memory((uint64_t)s->n, sizeof *s->pos);
    for (int j = 0; j < s->n; j++) s->pos[j] = j;
    s->doc[1] = s->n;
    s->seq = (gr_seq){s->n, 1, s->doc, gr_view1(s->doc, GR_I32, 2), gr_view1(s->pos, GR_I32, s->n)};
}

int main(int argc, char **argv)
{
    step          s = {0};
    const gr_ops *ops = NULL;
    char          note[160];
    gr_status     st = GR_OK;

    if (argc != 3) return 2;
    GR_TRY(bench_backend(&ops, note, sizeof note));
    bench_name(note);
    GR_TRY(shape_open(&s.m, ops, argv[1]));
    s.n = (int)strtol(argv[2], NULL, 10);
    draw_texts(&s);
    /* six a parameter and token, and causal attention's products */
    s.flop = 6.0 * (double)gr_params_total(s.m->params) * s.n +
             6.0 * s.m->spec.n_layer * (double)s.n * s.n * s.m->spec.n_head * s.m->spec.head_dim;
    st = bench_serve(&(bench){.run = run, .check = check, .user = &s});
out:
    return gr_exit_code(st);
}
