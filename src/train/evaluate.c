#include "train/evaluate.h"
#include "loss/token.h"
#include <math.h>

static gr_tensor head_of(const gr_model *m)
{
    return m->params->p[m->at.head].value;
}

/* sum: F64 [5] { CE, unused KL of targets, positions, full KL, positions } */
static gr_status add_batch(gr_tensor sum, gr_model *model, gr_model *teacher, const gr_batch *b)
{
    gr_status st = GR_OK;
    gr_tensor h, ht;

    GR_TRY(gr_model_forward(model, b->ids, &b->seq, false, NULL, NULL, &h));
    GR_TRY(gr_token_loss(model->ops, model->scratch, gr_none(), gr_none(), gr_rows(sum, 0, 3), h, head_of(model),
                         &b->targets));
    if (teacher) {
        GR_TRY(gr_model_forward(teacher, b->ids, &b->seq, false, NULL, NULL, &ht));
        GR_TRY(gr_token_kl(model->ops, model->scratch, gr_rows(sum, 3, 2), h, head_of(model), ht, head_of(teacher),
                           b->targets.id));
        GR_TRY(gr_model_reset(teacher));
    }
    GR_TRY(gr_model_reset(model));
out:
    return st;
}

static gr_status run_windows(gr_tensor sum, const gr_comm *c, gr_model *model, gr_model *teacher, gr_shards *shards,
                             int64_t context, int64_t micro_batch, int64_t tokens)
{
    gr_status   st = GR_OK;
    gr_windows *w = NULL;
    gr_batch    batch;
    int64_t     first = 0, count = 0;

    GR_TRY(gr_windows_open(&w, model->ops, shards, NULL, micro_batch * context));
    gr_share((tokens + context - 1) / context, gr_comm_rank(c), gr_comm_size(c), &first, &count);
    for (int64_t i = first; i < first + count; i += micro_batch) {
        const int64_t left = first + count - i;
        GR_TRY(gr_windows_run(w, i * context, tokens, context, left < micro_batch ? left : micro_batch, &batch));
        GR_TRY(add_batch(sum, model, teacher, &batch));
    }
out:
    gr_windows_close(&w);
    return st;
}

gr_status gr_evaluate(gr_quality *q, const gr_comm *c, gr_model *model, gr_model *teacher, gr_shards *shards,
                      int64_t context, int64_t micro_batch, int64_t limit)
{
    gr_status     st = GR_OK;
    const int64_t all = gr_shards_tokens(shards), tokens = limit && limit < all ? limit : all;
    gr_tensor     sum = gr_view1(NULL, GR_F64, 5);
    double        s[5] = {0};

    GR_CHECK0(gr_shards_corpus(shards)->vocab_size <= model->spec.vocab, GR_ERR_INPUT,
              "the held-out text: its tokenizer has %lld ids, the model only %lld",
              (long long)gr_shards_corpus(shards)->vocab_size, (long long)model->spec.vocab);
    st = model->ops->alloc(&sum.data, sizeof s, "sums");
    if (st == GR_OK) st = run_windows(sum, c, model, teacher, shards, context, micro_batch, tokens);
    GR_TRY(gr_agree(c, st));
    model->ops->copy(s, sum.data, sizeof s, GR_TO_HOST, NULL);
    gr_sum_f64(c, s, 5);
    GR_CHECK0(s[2] > 0, GR_ERR_INPUT, "no token of the text can be predicted: every document has one token");
    q->tokens = (int64_t)s[2];
    q->loss = s[0] / s[2];
    q->perplexity = exp(q->loss);
    q->kl = s[4] > 0 ? s[3] / s[4] : 0;
    GR_CHECK0(isfinite(q->loss) && isfinite(q->kl), GR_ERR_NUMERIC, "held-out loss %g, KL %g: not finite", q->loss,
              q->kl);
out:
    if (sum.data) model->ops->free(&sum.data);
    return st;
}
