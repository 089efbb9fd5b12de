/* The computation: forward, and backward in reverse. Formulas and shapes: model.h, docs/math.md 5.1. */
#include "model/model.h"
#include "util/beat.h"

static gr_tensor w(const gr_model *m, int64_t i)
{
    return m->params->p[i].value;
}

static gr_tensor dw(const gr_model *m, int64_t i)
{
    return m->params->p[i].grad;
}

/* y = x W^T */
static void linear(const gr_model *m, gr_tensor y, gr_tensor x, gr_tensor weight)
{
    m->ops->gemm(y, x, false, weight, true, 1.0f, 0.0f, NULL);
}

/* dx = dy W (+ dx when beta is 1), dW += dy^T x */
static void linear_back(const gr_model *m, gr_tensor dx, gr_tensor dweight, gr_tensor dy, gr_tensor x, gr_tensor weight,
                        float beta)
{
    m->ops->gemm(dx, dy, false, weight, false, 1.0f, beta, NULL);
    if (dweight.data) m->ops->gemm(dweight, dy, true, x, false, 1.0f, 1.0f, NULL);
}

enum { MAX_PARAMS = GR_MIXER_PARAMS };

/* Weights and gradients of a mixer as arrays in the order of its params(). */
typedef struct mixer_weights {
    gr_tensor w[MAX_PARAMS], dw[MAX_PARAMS];
} mixer_weights;

static gr_mixer_ctx context(gr_model *m, int layer, const gr_seq *seq, gr_tensor rope_cs, mixer_weights *mw)
{
    const gr_block *b = &m->at.block[layer];

    for (int j = 0; j < b->n_mixer; j++) {
        mw->w[j] = w(m, b->mixer_first + j);
        mw->dw[j] = dw(m, b->mixer_first + j);
    }
    return (gr_mixer_ctx){.op = m->ops,
                          .core = b->core,
                          .inner = b->inner,
                          .spec = &m->mixer_spec,
                          .seq = seq,
                          .rope_cs = rope_cs,
                          .w = mw->w,
                          .dw = mw->dw,
                          .keep = m->keep,
                          .scratch = m->scratch};
}

void gr_model_mixer_forward(gr_model *m, int layer, const gr_seq *seq, gr_tensor rope_cs, gr_tensor y, gr_tensor x,
                            gr_tape *tape)
{
    mixer_weights      mw;
    const gr_mixer_ctx ctx = context(m, layer, seq, rope_cs, &mw);

    m->at.block[layer].mixer->def->forward(&ctx, y, x, tape);
}

void gr_model_mixer_backward(gr_model *m, int layer, const gr_seq *seq, gr_tensor rope_cs, gr_tensor dx, gr_tensor dy,
                             gr_tensor x, const gr_tape *tape)
{
    mixer_weights      mw;
    const gr_mixer_ctx ctx = context(m, layer, seq, rope_cs, &mw);

    m->at.block[layer].mixer->def->backward(&ctx, dx, dy, x, tape);
}

/* Arenas remember that memory ran out; kernels must not see the views they gave then. */
gr_status gr_model_memory(const gr_model *m)
{
    const gr_status keep = gr_arena_status(m->keep);

    return keep != GR_OK ? keep : gr_arena_status(m->scratch);
}

/* With `keep` every intermediate goes to the keep arena, without it to scratch, which the caller releases. */
static gr_status block_forward(gr_model *m, int i, const gr_seq *seq, gr_tensor x, bool keep, gr_tap tap, void *user,
                               gr_tensor *x_out)
{
    gr_status       st = GR_OK;
    const gr_block *b = &m->at.block[i];
    const int64_t   n = seq->n, hid = m->spec.hidden, ffn = m->spec.ffn;
    const float     eps = (float)m->spec.norm_eps;
    gr_arena       *a = keep ? m->keep : m->scratch;
    gr_block_tape  *t = &m->tape[i];
    gr_tensor       y, h, next;
    gr_mark         mark;

    t->x_in = x;
    t->n1 = gr_take2(a, GR_F32, n, hid);
    t->rstd1 = gr_take1(a, GR_F32, n);
    y = t->x_mid = gr_take2(a, GR_F32, n, hid);
    t->n2 = gr_take2(a, GR_F32, n, hid);
    t->rstd2 = gr_take1(a, GR_F32, n);
    t->g = gr_take2(a, GR_F32, n, ffn);
    t->u = gr_take2(a, GR_F32, n, ffn);
    next = gr_take2(a, GR_F32, n, hid);
    GR_TRY(gr_model_memory(m));

    m->ops->rmsnorm(t->n1, t->rstd1, x, w(m, b->norm1), eps, NULL);
    gr_model_mixer_forward(m, i, seq, m->rope_cs, y, t->n1, keep ? &t->mixer : NULL);
    GR_TRY(gr_model_memory(m));
    if (tap) tap(user, i, t->n1, y);
    m->ops->add(y, x, NULL);

    m->ops->rmsnorm(t->n2, t->rstd2, y, w(m, b->norm2), eps, NULL);
    linear(m, t->g, t->n2, w(m, b->gate));
    linear(m, t->u, t->n2, w(m, b->up));
    mark = gr_arena_mark(m->scratch);
    h = gr_take2(m->scratch, GR_F32, n, ffn);
    GR_TRY(gr_model_memory(m));
    m->ops->swiglu(h, t->g, t->u, NULL);
    linear(m, next, h, w(m, b->down));
    if (keep) gr_arena_release(m->scratch, mark);
    m->ops->add(next, y, NULL);
    *x_out = next;
out:
    return st;
}

gr_status gr_model_forward(gr_model *m, gr_tensor ids, const gr_seq *seq, bool keep, gr_tap tap, void *user,
                           gr_tensor *h_out)
{
    gr_status     st = GR_OK;
    const char   *before = gr_beat("forward");
    const int64_t n = seq->n, hid = m->spec.hidden;
    gr_tensor     x = gr_take2(m->keep, GR_F32, n, hid);
    gr_tensor     h = gr_take2(m->keep, GR_F32, n, hid);
    gr_tensor     next;

    m->rope_cs = gr_take2(m->keep, GR_F32, n, m->spec.head_dim);
    m->rstd_out = gr_take1(m->keep, GR_F32, n);
    GR_TRY(gr_model_memory(m));
    m->ops->rope_table(m->rope_cs, seq->pos, m->inv_freq, NULL);
    m->ops->embed(x, w(m, m->at.embed), ids, NULL);
    for (int i = 0; i < m->spec.n_layer; i++) {
        const gr_mark mark = gr_arena_mark(m->scratch);
        gr_beat_layer(i);
        GR_TRY(block_forward(m, i, seq, x, keep, tap, user, &next));
        if (keep) {
            x = next;
        } else {
            m->ops->copy(x.data, next.data, (uint64_t)gr_count(x) * sizeof(float), GR_WITHIN, NULL);
            gr_arena_release(m->scratch, mark);
        }
    }
    m->x_out = x;
    m->ops->rmsnorm(h, m->rstd_out, x, w(m, m->at.norm), (float)m->spec.norm_eps, NULL);
    *h_out = h;
out:
    gr_beat_layer(-1);
    gr_beat(before);
    return st;
}

/* dx: gradient of the block's output on entry, of its input on return. need_dx false: nothing below learns. */
static gr_status block_backward(gr_model *m, int i, const gr_seq *seq, gr_tensor dx, bool need_dx)
{
    gr_status       st = GR_OK;
    const gr_block *b = &m->at.block[i];
    gr_block_tape  *t = &m->tape[i];
    const int64_t   n = seq->n, hid = m->spec.hidden, ffn = m->spec.ffn;
    const gr_mark   mark = gr_arena_mark(m->scratch);
    gr_tensor       h = gr_take2(m->scratch, GR_F32, n, ffn), dh = gr_take2(m->scratch, GR_F32, n, ffn);
    gr_tensor       dn = gr_take2(m->scratch, GR_F32, n, hid);

    GR_TRY(gr_model_memory(m));
    m->ops->swiglu(h, t->g, t->u, NULL);
    linear_back(m, dh, dw(m, b->down), dx, h, w(m, b->down), 0.0f);
    m->ops->swiglu_back(t->g, t->u, dh, t->g, t->u, NULL); /* the tape's g and u become their gradients */
    linear_back(m, dn, dw(m, b->gate), t->g, t->n2, w(m, b->gate), 0.0f);
    linear_back(m, dn, dw(m, b->up), t->u, t->n2, w(m, b->up), 1.0f);
    m->ops->rmsnorm_back(dn, dw(m, b->norm2), dn, t->x_mid, t->rstd2, w(m, b->norm2), NULL);
    m->ops->add(dx, dn, NULL);

    need_dx = need_dx || dw(m, b->norm1).data;
    gr_model_mixer_backward(m, i, seq, m->rope_cs, need_dx ? dn : gr_none(), dx, t->n1, &t->mixer);
    if (need_dx) {
        m->ops->rmsnorm_back(dn, dw(m, b->norm1), dn, t->x_in, t->rstd1, w(m, b->norm1), NULL);
        m->ops->add(dx, dn, NULL);
    }
    GR_TRY(gr_model_memory(m));
out:
    gr_arena_release(m->scratch, mark);
    return st;
}

/* The lowest block in which something learns; 0 as well when the embedding does. */
static int lowest_trainable(const gr_model *m)
{
    int low = m->spec.n_layer;

    if (m->params->p[m->at.embed].trainable && m->params->p[m->at.embed].grad.data) return -1;
    for (int64_t i = 0; i < m->params->n; i++) {
        const gr_param *p = &m->params->p[i];
        if (p->trainable && p->block >= 0 && p->block < low) low = p->block;
    }
    return low;
}

gr_status gr_model_backward(gr_model *m, gr_tensor ids, const gr_seq *seq, gr_tensor dh)
{
    gr_status   st = GR_OK;
    const char *before = gr_beat("backward");
    const int   low = lowest_trainable(m);
    gr_tensor   dx = dh;

    m->ops->rmsnorm_back(dx, dw(m, m->at.norm), dh, m->x_out, m->rstd_out, w(m, m->at.norm), NULL);
    for (int i = m->spec.n_layer - 1; i >= 0 && i >= low; i--) {
        gr_beat_layer(i);
        GR_TRY(block_backward(m, i, seq, dx, i > low));
    }
    if (low < 0) m->ops->embed_back(dw(m, m->at.embed), dx, ids, NULL);
out:
    gr_beat_layer(-1);
    gr_beat(before);
    return st;
}

gr_status gr_model_reset(gr_model *m)
{
    gr_status st = GR_OK;

    GR_TRY(gr_arena_reset(m->keep));
    GR_TRY(gr_arena_reset(m->scratch));
out:
    return st;
}
