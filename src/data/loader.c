#include "data/loader.h"
#include "util/mem.h"
#include "util/rng.h"
#include <string.h>

struct gr_loader {
    gr_shards  *shards;
    gr_logits  *logits;
    gr_windows *windows;
    int64_t     context, batch, micro_batch, n_window;
    uint64_t    seed;
    int         rank, size;
    int64_t    *start, *length; /* [micro_batch] */
};

static gr_status check_logits(const gr_logits *logits, const gr_shards *shards, const gr_cfg_data *data,
                              const char *dir, int64_t vocab)
{
    gr_status             st = GR_OK;
    const gr_logits_spec *s = gr_logits_spec_of(logits);

    GR_CHECK0(!strcmp(s->corpus, gr_shards_digest(shards)), GR_ERR_INPUT,
              "%s: made for corpus %s, data.shards = %s is corpus %s", dir, s->corpus, data->shards,
              gr_shards_digest(shards));
    GR_CHECK0(s->vocab_size <= vocab, GR_ERR_INPUT, "%s: the teacher has %lld tokens, the model only %lld", dir,
              (long long)s->vocab_size, (long long)vocab);
    GR_CHECK0(s->context == data->context, GR_ERR_CONFIG,
              "%s: the teacher saw windows of %lld tokens, data.context = %lld", dir, (long long)s->context,
              (long long)data->context);
out:
    return st;
}

gr_status gr_loader_open(gr_loader **out, const gr_comm *c, const gr_comm *data_ranks, const gr_ops *ops,
                         const gr_cfg_data *data, const gr_cfg_train *train, const char *logits_dir, int64_t vocab)
{
    gr_status  st = GR_OK;
    gr_loader *l = NULL;

    GR_TRY(gr_agree(c, gr_alloc(&l, 1, sizeof *l, "loader")));
    GR_TRY(gr_shards_open(&l->shards, c, data->shards));
    if (*logits_dir) GR_TRY(gr_logits_open(&l->logits, c, logits_dir));

    /* From here on every rank sees the same values and decides alike; only memory can differ. */
    l->context = data->context;
    l->batch = train->batch;
    l->micro_batch = data->micro_batch;
    l->seed = (uint64_t)train->seed;
    l->rank = gr_comm_rank(data_ranks);
    l->size = gr_comm_size(data_ranks);
    l->n_window = (gr_shards_tokens(l->shards) - 1) / l->context;
    GR_CHECK0(gr_shards_corpus(l->shards)->vocab_size <= vocab, GR_ERR_INPUT,
              "%s: the tokenizer has %lld ids, the model only %lld", data->shards,
              (long long)gr_shards_corpus(l->shards)->vocab_size, (long long)vocab);
    GR_CHECK0(l->n_window > 0, GR_ERR_CONFIG, "%s: %lld tokens make no window of data.context = %lld", data->shards,
              (long long)gr_shards_tokens(l->shards), (long long)l->context);
    if (l->logits) GR_TRY(check_logits(l->logits, l->shards, data, logits_dir, vocab));
    st = gr_windows_open(&l->windows, ops, l->shards, l->logits, l->micro_batch * l->context);
    if (st == GR_OK) st = gr_alloc(&l->start, (uint64_t)l->micro_batch, sizeof *l->start, "loader");
    if (st == GR_OK) st = gr_alloc(&l->length, (uint64_t)l->micro_batch, sizeof *l->length, "loader");
    GR_TRY(gr_agree(c, st));
    *out = l;
    l = NULL;
out:
    gr_loader_close(&l);
    return st;
}

void gr_loader_close(gr_loader **lp)
{
    gr_loader *l = *lp;

    if (!l) return;
    gr_free(&l->length);
    gr_free(&l->start);
    gr_windows_close(&l->windows);
    gr_logits_close(&l->logits);
    gr_shards_close(&l->shards);
    gr_free(lp);
}

int64_t gr_loader_micros(const gr_loader *l, int64_t step)
{
    int64_t first = 0, count = 0;

    (void)step; /* every step has the same number of sequences */
    gr_share(l->batch, l->rank, l->size, &first, &count);
    return (count + l->micro_batch - 1) / l->micro_batch;
}

int64_t gr_loader_start(const gr_loader *l, int64_t sample)
{
    return l->context * gr_permute(l->seed, (uint64_t)(sample / l->n_window), sample % l->n_window, l->n_window);
}

gr_status gr_loader_get(gr_loader *l, int64_t step, int64_t i, gr_batch *batch)
{
    int64_t first = 0, count = 0, n = 0;

    gr_share(l->batch, l->rank, l->size, &first, &count);
    for (int64_t j = i * l->micro_batch; j < count && n < l->micro_batch; j++, n++) {
        l->start[n] = gr_loader_start(l, step * l->batch + first + j);
        l->length[n] = l->context;
    }
    return gr_windows_fill(l->windows, l->start, l->length, n, batch);
}

int64_t gr_loader_step_tokens(const gr_loader *l)
{
    return l->batch * l->context;
}

gr_shards *gr_loader_shards(gr_loader *l)
{
    return l->shards;
}

gr_logits *gr_loader_logits(gr_loader *l)
{
    return l->logits;
}
