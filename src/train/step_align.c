#include "train/steps.h"
#include "util/beat.h"
#include "util/mem.h"

struct gr_aligner {
    gr_trainer *t;
    gr_model   *teacher;
    int         n;     /* layers that are aligned                          */
    int        *place; /* [model layers] its number among them, or -1      */
    double     *error; /* [n] of the last step                             */
    double     *id;    /* [n] which layers they are, as metrics want them  */
    /* of the micro-batch under way: what the tap needs */
    const gr_batch *batch;
    bool            learn;
};

gr_status gr_aligner_open(gr_aligner **out, gr_trainer *t, gr_model *teacher)
{
    gr_status       st = GR_OK;
    gr_aligner     *a = NULL;
    const gr_model *m = t->model;
    const int       layers = m->spec.n_layer;

    GR_CHECK0(teacher->spec.n_layer == layers && teacher->spec.hidden == m->spec.hidden &&
                  teacher->spec.vocab == m->spec.vocab,
              GR_ERR_CONFIG,
              "teacher (%d layers of %d, %lld tokens) and student (%d layers of %d, %lld tokens) have different shapes",
              teacher->spec.n_layer, teacher->spec.hidden, (long long)teacher->spec.vocab, layers, m->spec.hidden,
              (long long)m->spec.vocab);
    st = gr_alloc(&a, 1, sizeof *a, "aligner");
    if (st == GR_OK) st = gr_alloc(&a->place, (uint64_t)layers, sizeof *a->place, "aligner");
    if (st == GR_OK) st = gr_alloc(&a->error, (uint64_t)layers, sizeof *a->error, "aligner");
    if (st == GR_OK) st = gr_alloc(&a->id, (uint64_t)layers, sizeof *a->id, "aligner");
    GR_TRY(gr_agree(t->run->comm, st));
    a->t = t;
    a->teacher = teacher;
    for (int i = 0; i < layers; i++) {
        a->place[i] = m->at.block[i].mixer_first >= 0 ? a->n++ : -1;
        if (a->place[i] >= 0) a->id[a->place[i]] = i;
    }
    GR_CHECK0(a->n > 0, GR_ERR_CONFIG, "every layer is attention: there is nothing to align");
    *out = a;
    a = NULL;
out:
    gr_aligner_close(&a);
    return st;
}

void gr_aligner_close(gr_aligner **ap)
{
    if (!*ap) return;
    gr_free(&(*ap)->id);
    gr_free(&(*ap)->error);
    gr_free(&(*ap)->place);
    gr_free(ap);
}

int gr_aligner_layers(const gr_aligner *a)
{
    return a->n;
}

/* After the teacher's mixer of a layer: the student's, its error, and its gradients. Nothing below needs dx: the layers
 * learn independently. */
static void align_layer(void *user, int layer, gr_tensor x, gr_tensor y)
{
    gr_aligner   *a = user;
    gr_model     *m = a->t->model;
    const int     place = a->place[layer];
    gr_tape       tape;
    gr_tensor     h;
    const gr_mark scratch = gr_arena_mark(m->scratch), keep = gr_arena_mark(m->keep);

    if (place < 0) return;
    h = gr_take2(m->scratch, GR_F32, x.dim[0], x.dim[1]);
    if (gr_model_memory(m) != GR_OK) return; /* teach() finds out as well */
    gr_model_mixer_forward(m, layer, &a->batch->seq, a->teacher->rope_cs, h, x, a->learn ? &tape : NULL);
    m->ops->align_loss(h, gr_rows(a->t->sum, 2 * place, 2), h, y, a->batch->mask, NULL);
    if (a->learn) gr_model_mixer_backward(m, layer, &a->batch->seq, a->teacher->rope_cs, gr_none(), h, x, &tape);
    gr_arena_release(m->scratch, scratch);
    gr_arena_release(m->keep, keep);
}

static gr_status teach(gr_aligner *a, const gr_batch *b, bool learn)
{
    gr_status st = GR_OK;
    gr_tensor unused;

    a->batch = b;
    a->learn = learn;
    GR_TRY(gr_model_forward(a->teacher, b->ids, &b->seq, false, align_layer, a, &unused));
    GR_TRY(gr_model_memory(a->t->model));
    GR_TRY(gr_model_reset(a->teacher));
    GR_TRY(gr_model_reset(a->t->model));
out:
    return st;
}

/* The normalised error of each layer from the reduced sums, into a->error; returns their mean. */
static double errors_of(gr_aligner *a)
{
    const double *s = a->t->host_sum;
    double        mean = 0;

    for (int i = 0; i < a->n; i++) mean += (a->error[i] = s[2 * i] / s[2 * i + 1]) / a->n;
    return mean;
}

/* Gradients are of |h - y|^2; each block has its own normaliser, known only now. */
static void normalise(gr_aligner *a)
{
    const gr_params *ps = a->t->model->params;

    for (int64_t i = 0; i < ps->n_unit; i++)
        if (ps->unit[i].grad.data)
            a->t->ops->scale(ps->unit[i].grad, (float)(1.0 / a->t->host_sum[2 * a->place[ps->unit[i].block] + 1]),
                             NULL);
}

gr_status gr_align_step(gr_aligner *a, gr_loader *loader, gr_step *done)
{
    gr_status     st = GR_OK;
    gr_trainer   *t = a->t;
    const int64_t n = gr_loader_micros(loader, t->step);
    gr_batch      batch;

    gr_beat_step(t->step + 1);
    gr_params_zero_grad(t->model->params);
    t->ops->zero(t->sum, NULL);
    for (int64_t i = 0; i < n && t->local == GR_OK; i++) {
        t->local = gr_loader_get(loader, t->step, i, &batch);
        if (t->local == GR_OK) t->local = teach(a, &batch, true);
    }
    GR_TRY(gr_trainer_reduce(t, &done->stop));
    done->loss = errors_of(a);
    done->ce = done->kl = 0;
    done->tokens = gr_loader_step_tokens(loader);
    done->n_layer = a->n;
    done->layer_loss = a->error;
    done->layer_id = a->id;
    normalise(a);
    GR_TRY(gr_trainer_update(t, 1.0, done));
out:
    return st;
}

gr_status gr_align_measure(gr_aligner *a, gr_shards *shards, int64_t context, int64_t limit, double *mean)
{
    gr_status     st = GR_OK;
    gr_trainer   *t = a->t;
    const int64_t all = gr_shards_tokens(shards), tokens = limit && limit < all ? limit : all;
    int64_t       first = 0, count = 0;
    gr_windows   *w = NULL;
    gr_batch      batch;
    bool          stop = false;

    t->ops->zero(t->sum, NULL);
    gr_share((tokens + context - 1) / context, gr_comm_rank(t->run->comm), gr_comm_size(t->run->comm), &first, &count);
    if (t->local == GR_OK) t->local = gr_windows_open(&w, t->ops, shards, NULL, context);
    for (int64_t i = first; i < first + count && t->local == GR_OK; i++) {
        t->local = gr_windows_run(w, i * context, tokens, context, 1, &batch);
        if (t->local == GR_OK) t->local = teach(a, &batch, false);
    }
    GR_TRY(gr_trainer_reduce(t, &stop));
    *mean = errors_of(a);
out:
    gr_windows_close(&w);
    return st;
}
