#include "train/results.h"
#include "data/windows.h"
#include "store/h5.h"
#include "store/json_seal.h"
#include "train/evaluate.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/mem.h"
#include <string.h>

gr_status gr_results_check(const gr_run *run)
{
    gr_status              st = GR_OK;
    const gr_cfg_evaluate *e = &run->cfg->evaluate;

    if (!strcmp(e->task, "logits")) {
        GR_CHECK0(*e->ids, GR_ERR_CONFIG, "evaluate.task = logits needs evaluate.ids");
        GR_CHECK0(!*e->shards && !*e->teacher, GR_ERR_CONFIG,
                  "evaluate.task = logits uses neither evaluate.shards nor evaluate.teacher");
    } else {
        GR_CHECK0(*e->shards, GR_ERR_CONFIG, "evaluate.task = perplexity needs evaluate.shards");
        GR_CHECK0(!*e->ids, GR_ERR_CONFIG, "evaluate.ids is for evaluate.task = logits");
    }
out:
    return st;
}

gr_status gr_results_perplexity(gr_run *run, gr_model *model, gr_model *teacher, gr_shards *shards, const char *path)
{
    gr_status              st = GR_OK;
    const gr_cfg_evaluate *e = &run->cfg->evaluate;
    const double           start = gr_now();
    gr_quality             q;
    json_t                *o = NULL;

    GR_TRY(gr_evaluate(&q, run->comm, model, teacher, shards, e->context, e->micro_batch, e->tokens));
    if (gr_comm_rank(run->comm) == 0) {
        o = json_pack("{s:f, s:f, s:I, s:f, s:s, s:s, s:I, s:s, s:s}", "perplexity", q.perplexity, "loss", q.loss,
                      "tokens", (json_int_t)q.tokens, "seconds", gr_now() - start, "weights", model->source_path,
                      "content", model->source, "context", (json_int_t)e->context, "commit", gr_commit(), "created",
                      gr_utc());
        if (teacher) json_object_set_new(o, "kl", json_real(q.kl));
        st = gr_json_write(o, path);
    }
    GR_TRY(gr_agree(run->comm, st));
    if (teacher)
        gr_log0("perplexity %.4f, KL to the teacher %.5f nats, over %lld tokens", q.perplexity, q.kl,
                (long long)q.tokens);
    else
        gr_log0("perplexity %.4f over %lld tokens", q.perplexity, (long long)q.tokens);
out:
    json_decref(o);
    return st;
}

/* ---- task: logits -------------------------------------------------------------------------- */

static gr_status read_ids(const char *path, int64_t vocab, int32_t **ids, int64_t *n_seq, int64_t *len)
{
    gr_status     st = GR_OK;
    json_t       *o = NULL;
    const json_t *row, *id;
    size_t        i, j;

    GR_TRY(gr_json_load(path, &o));
    GR_CHECK0(json_is_array(o) && json_array_size(o) > 0 && json_array_size(json_array_get(o, 0)) > 0, GR_ERR_INPUT,
              "%s: expected a JSON array of arrays of token ids", path);
    *n_seq = (int64_t)json_array_size(o);
    *len = (int64_t)json_array_size(json_array_get(o, 0));
    GR_TRY(gr_alloc(ids, (uint64_t)*n_seq * (uint64_t)*len, sizeof **ids, "ids"));
    json_array_foreach(o, i, row)
    {
        GR_CHECK0((int64_t)json_array_size(row) == *len, GR_ERR_INPUT,
                  "%s: sequence %zu has %zu ids, the first has %lld", path, i, json_array_size(row), (long long)*len);
        json_array_foreach(row, j, id)
        {
            const int64_t v = json_is_integer(id) ? (int64_t)json_integer_value(id) : -1;
            GR_CHECK0(v >= 0 && v < vocab, GR_ERR_INPUT, "%s: sequence %zu, id %zu: expected an integer in [0, %lld)",
                      path, i, j, (long long)vocab);
            (*ids)[i * (size_t)*len + j] = (int32_t)v;
        }
    }
out:
    json_decref(o);
    return st;
}

/* Logits of one sequence, straight to their place in the file. */
static gr_status write_sequence(gr_run *run, gr_model *m, gr_windows *w, const int32_t *ids, int64_t len,
                                const char *tmp, const gr_h5_slot *slot, uint64_t at)
{
    gr_status     st = GR_OK;
    const int64_t vocab = m->spec.vocab, tile = 64;
    gr_batch      b;
    gr_tensor     h, z;
    float        *host = NULL;

    GR_TRY(gr_windows_from_ids(w, ids, len, &b));
    GR_TRY(gr_model_forward(m, b.ids, &b.seq, false, NULL, NULL, &h));
    z = gr_take2(m->scratch, GR_F32, tile, vocab);
    GR_TRY(gr_arena_status(m->scratch));
    GR_TRY(gr_alloc(&host, (uint64_t)(tile * vocab), sizeof *host, "logits"));
    for (int64_t i = 0; i < len; i += tile) {
        const int64_t  n = i + tile < len ? tile : len - i;
        const uint64_t bytes = (uint64_t)(n * vocab) * sizeof(float);
        run->ops->gemm(gr_rows(z, 0, n), gr_rows(h, i, n), false, m->params->p[m->at.head].value, true, 1.0f, 0.0f,
                       NULL);
        run->ops->copy(host, z.data, bytes, GR_TO_HOST, NULL);
        GR_TRY(gr_h5_put(tmp, slot, at + (uint64_t)(i * vocab) * sizeof(float), host, bytes));
    }
    GR_TRY(gr_model_reset(m));
out:
    gr_free(&host);
    return st;
}

gr_status gr_results_logits(gr_run *run, gr_model *model, const char *path)
{
    gr_status      st = GR_OK;
    const gr_comm *c = run->comm;
    int32_t       *ids = NULL;
    int64_t        n = 0, len = 0, first = 0, count = 0;
    gr_h5         *f = NULL;
    gr_h5_slot     slot;
    gr_windows    *w = NULL;
    char           tmp[GR_PATH_MAX] = "";

    st = read_ids(run->cfg->evaluate.ids, model->spec.vocab, &ids, &n, &len);
    if (st == GR_OK) st = gr_windows_open(&w, run->ops, NULL, NULL, len);
    if (st == GR_OK && gr_comm_rank(c) == 0) {
        const int64_t dim[] = {n, len, model->spec.vocab};
        st = gr_h5_create(&f, path, "raw-logits");
        if (st == GR_OK) st = gr_h5_set_str(f, NULL, "weights", model->source);
        if (st == GR_OK) st = gr_h5_set_str(f, NULL, "config", run->config_text);
        if (st == GR_OK) st = gr_h5_reserve(f, "logits", GR_F32, 3, dim);
    }
    GR_TRY(gr_agree(c, st));
    GR_TRY(gr_h5_share(c, &f, tmp, &slot, 1));
    gr_share(n, gr_comm_rank(c), gr_comm_size(c), &first, &count);
    for (int64_t i = first; st == GR_OK && i < first + count; i++)
        st = write_sequence(run, model, w, ids + i * len, len, tmp, &slot,
                            (uint64_t)(i * len * model->spec.vocab) * sizeof(float));
    st = gr_agree(c, st);
    if (st != GR_OK) {
        gr_h5_abandon_shared(c, tmp);
        goto out;
    }
    GR_TRY(gr_h5_commit_shared(c, tmp, path, "raw-logits"));
    gr_log0("wrote %s: [%lld, %lld, %lld]", path, (long long)n, (long long)len, (long long)model->spec.vocab);
out:
    gr_windows_close(&w);
    gr_h5_close(&f);
    gr_free(&ids);
    return st;
}
