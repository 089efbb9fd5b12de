#include "train/teacher.h"
#include "loss/token.h"
#include "store/logits.h"
#include "util/fs.h"
#include "util/mem.h"
#include <stdio.h>
#include <string.h>

/* About this many positions per file: 32 MiB at k = 32, a few minutes of an 8B teacher on one GPU. */
enum { SPAN = 1 << 18 };

typedef struct scribe {
    gr_run        *run;
    gr_model      *model;
    gr_windows    *windows;
    gr_logits_spec spec;
    gr_tensor      id, lp, tail; /* backend, one micro-batch                */
    int32_t       *id_host;      /* [span, k] of the file being made         */
    float         *lp_host, *tail_host;
    int64_t        micro_batch;
} scribe;

static gr_status scribe_open(scribe *w, gr_run *run, gr_model *model, gr_shards *shards)
{
    gr_status      st = GR_OK;
    const int64_t  context = run->cfg->data.context, k = run->cfg->logits.k;
    const int64_t  rows = context * run->cfg->data.micro_batch;
    const uint64_t span = (uint64_t)((SPAN + context - 1) / context * context);

    *w = (scribe){.run = run, .model = model, .micro_batch = run->cfg->data.micro_batch};
    w->spec = (gr_logits_spec){.k = k,
                               .context = context,
                               .span = (int64_t)span,
                               .tokens = gr_shards_tokens(shards),
                               .vocab_size = model->spec.vocab};
    snprintf(w->spec.corpus, sizeof w->spec.corpus, "%s", gr_shards_digest(shards));
    snprintf(w->spec.teacher, sizeof w->spec.teacher, "%s", model->source);
    w->id = gr_view2(NULL, GR_I32, rows, k);
    w->lp = gr_view2(NULL, GR_F32, rows, k);
    w->tail = gr_view1(NULL, GR_F32, rows);
    GR_TRY(gr_windows_open(&w->windows, run->ops, shards, NULL, rows));
    GR_TRY(run->ops->alloc(&w->id.data, (uint64_t)(rows * k) * sizeof(int32_t), "predictions"));
    GR_TRY(run->ops->alloc(&w->lp.data, (uint64_t)(rows * k) * sizeof(float), "predictions"));
    GR_TRY(run->ops->alloc(&w->tail.data, (uint64_t)rows * sizeof(float), "predictions"));
    GR_TRY(gr_alloc(&w->id_host, span * (uint64_t)k, sizeof *w->id_host, "predictions"));
    GR_TRY(gr_alloc(&w->lp_host, span * (uint64_t)k, sizeof *w->lp_host, "predictions"));
    GR_TRY(gr_alloc(&w->tail_host, span, sizeof *w->tail_host, "predictions"));
out:
    return st;
}

static void scribe_close(scribe *w)
{
    if (!w->run) return;
    gr_free(&w->tail_host);
    gr_free(&w->lp_host);
    gr_free(&w->id_host);
    if (w->tail.data) w->run->ops->free(&w->tail.data);
    if (w->lp.data) w->run->ops->free(&w->lp.data);
    if (w->id.data) w->run->ops->free(&w->id.data);
    gr_windows_close(&w->windows);
}

/* Predictions of a micro-batch, positions from `from` on, into rows [at, at + *rows) of the file's buffers. */
static gr_status predict(scribe *w, int64_t from, int64_t end, int64_t at, int64_t *rows)
{
    gr_status     st = GR_OK;
    const gr_ops *op = w->run->ops;
    gr_model     *m = w->model;
    const int64_t k = w->spec.k;
    int64_t       n;
    gr_batch      b;
    gr_tensor     h;

    GR_TRY(gr_windows_run(w->windows, from, end, w->spec.context, w->micro_batch, &b));
    n = *rows = b.seq.n;
    GR_TRY(gr_model_forward(m, b.ids, &b.seq, false, NULL, NULL, &h));
    GR_TRY(gr_token_top_k(op, m->scratch, gr_rows(w->id, 0, n), gr_rows(w->lp, 0, n), gr_rows(w->tail, 0, n), h,
                          m->params->p[m->at.head].value));
    op->copy(w->id_host + at * k, w->id.data, (uint64_t)(n * k) * sizeof(int32_t), GR_TO_HOST, NULL);
    op->copy(w->lp_host + at * k, w->lp.data, (uint64_t)(n * k) * sizeof(float), GR_TO_HOST, NULL);
    op->copy(w->tail_host + at, w->tail.data, (uint64_t)n * sizeof(float), GR_TO_HOST, NULL);
    GR_TRY(gr_model_reset(m));
out:
    return st;
}

static gr_status make_file(scribe *w, int64_t i)
{
    gr_status     st = GR_OK;
    const int64_t first = i * w->spec.span,
                  end = first + w->spec.span < w->spec.tokens ? first + w->spec.span : w->spec.tokens;
    const char *dir = w->run->cfg->run.out;

    for (int64_t at = first, rows = 0; at < end; at += rows) {
        GR_TRY(predict(w, at, end, at - first, &rows));
        gr_progress(w->run, "teacher", at + rows, w->spec.tokens, NULL);
    }
    GR_TRY(gr_logits_write(dir, &w->spec, i, end - first, w->id_host, w->lp_host, w->tail_host, w->run->config_text));
out:
    return st;
}

gr_status gr_store_predictions(gr_run *run, gr_model *model, gr_shards *shards)
{
    gr_status      st = GR_OK;
    const gr_comm *c = run->comm;
    const char    *dir = run->cfg->run.out;
    scribe         w = {.run = NULL};
    int64_t        n = 0;

    GR_CHECK0(gr_shards_corpus(shards)->vocab_size <= model->spec.vocab, GR_ERR_INPUT,
              "%s: the tokenizer has %lld ids, the model only %lld", run->cfg->data.shards,
              (long long)gr_shards_corpus(shards)->vocab_size, (long long)model->spec.vocab);
    GR_CHECK0(run->cfg->logits.k < model->spec.vocab, GR_ERR_CONFIG,
              "logits.k = %lld: the vocabulary has only %lld tokens", (long long)run->cfg->logits.k,
              (long long)model->spec.vocab);
    st = scribe_open(&w, run, model, shards);
    if (st == GR_OK && gr_comm_rank(c) == 0) st = gr_mkdirs(dir);
    GR_TRY(gr_agree(c, st));
    n = gr_logits_files(&w.spec);
    for (int64_t i = gr_comm_rank(c); i < n && st == GR_OK; i += gr_comm_size(c)) {
        if (gr_logits_have(dir, &w.spec, i)) continue;
        st = gr_stop_requested() ? GR_STOP : make_file(&w, i);
    }
    GR_TRY(gr_agree(c, st));
    if (gr_comm_rank(c) == 0) st = gr_logits_publish(dir, &w.spec, run->config_text);
    GR_TRY(gr_agree(c, st));
    gr_log0("wrote %s: %lld positions, %lld tokens each", dir, (long long)w.spec.tokens, (long long)w.spec.k);
out:
    scribe_close(&w);
    return st;
}
