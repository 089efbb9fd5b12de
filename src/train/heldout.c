#include "train/heldout.h"
#include "train/evaluate.h"
#include "util/mem.h"

struct gr_heldout {
    gr_run    *run;
    gr_shards *shards;
};

gr_status gr_heldout_open(gr_heldout **out, gr_run *run)
{
    gr_status   st = GR_OK;
    gr_heldout *h = NULL;

    if (!*run->cfg->heldout.shards) goto out;
    st = gr_alloc(&h, 1, sizeof *h, "held-out text");
    GR_TRY(gr_agree(run->comm, st));
    h->run = run;
    GR_TRY(gr_shards_open(&h->shards, run->comm, run->cfg->heldout.shards));
    *out = h;
    h = NULL;
out:
    gr_heldout_close(&h);
    return st;
}

void gr_heldout_close(gr_heldout **hp)
{
    if (!*hp) return;
    gr_shards_close(&(*hp)->shards);
    gr_free(hp);
}

gr_status gr_heldout_perplexity(gr_heldout *h, gr_trainer *t)
{
    gr_status        st = GR_OK;
    const gr_config *cfg = t->run->cfg;
    gr_quality       q;

    if (!h || !gr_trainer_heldout_due(t)) goto out;
    GR_TRY(gr_evaluate(&q, t->run->comm, t->model, NULL, h->shards, cfg->data.context, cfg->data.micro_batch,
                       cfg->heldout.tokens));
    gr_log0("step %lld: held-out perplexity %.3f over %lld tokens", (long long)t->step, q.perplexity,
            (long long)q.tokens);
    gr_trainer_note(t, "heldout_loss", q.loss);
out:
    return st;
}

gr_status gr_heldout_align(gr_heldout *h, gr_trainer *t, gr_aligner *a)
{
    gr_status        st = GR_OK;
    const gr_config *cfg = t->run->cfg;
    double           mean = 0;

    if (!h || !gr_trainer_heldout_due(t)) goto out;
    GR_TRY(gr_align_measure(a, h->shards, cfg->data.context, cfg->heldout.tokens, &mean));
    gr_log0("step %lld: held-out alignment error %.4f (mean of %d layers)", (long long)t->step, mean,
            gr_aligner_layers(a));
    gr_trainer_note(t, "heldout_loss", mean);
out:
    return st;
}
