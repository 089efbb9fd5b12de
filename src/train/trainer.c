#include "train/trainer.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/mem.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* What ranks tell each other beside the sums of a step: no message of its own for any of it. */
enum { STOP, FAILED, WRITING, LATE, N_SAYS };

/* ---- checkpoints ----------------------------------------------------------------------------- */

enum { N_PART = 3, PIECE_NAME = GR_NAME_MAX + 16 };
static const char *const part_name[N_PART] = {GR_VALUE_PREFIX, "adam_m:", "adam_v:"};

static gr_tensor part_of(const gr_param *p, int part)
{
    return part == 0 ? p->value : part == 1 ? p->m : p->v;
}

/* The pieces of all trainable parameters, whole: value and both moments. Host buffers: the values themselves on cpu. */
static gr_status list_pieces(const gr_trainer *t, gr_ckpt_piece **out, char **names, int64_t *n_out)
{
    gr_status        st = GR_OK;
    const gr_params *ps = t->model->params;
    gr_ckpt_piece   *piece = NULL;
    char            *name = NULL;
    int64_t          n = 0;

    GR_TRY(gr_alloc(&piece, (uint64_t)ps->n * N_PART, sizeof *piece, "checkpoint plan"));
    GR_TRY(gr_alloc(&name, (uint64_t)ps->n * N_PART, PIECE_NAME, "checkpoint plan"));
    for (int64_t i = 0; i < ps->n; i++)
        for (int part = 0; part < N_PART && ps->p[i].grad.data; part++, n++) {
            const gr_param *p = &ps->p[i];
            char           *label = name + n * PIECE_NAME;

            snprintf(label, PIECE_NAME, "%s%s", part_name[part], p->name);
            piece[n] = (gr_ckpt_piece){
                .name = label, .dtype = GR_F32, .rank = p->rank, .count = p->dim[0], .data = part_of(p, part).data};
            memcpy(piece[n].dim, p->dim, sizeof p->dim);
        }
    *out = piece;
    *names = name;
    *n_out = n;
    piece = NULL;
    name = NULL;
out:
    gr_free(&piece);
    gr_free(&name);
    return st;
}

/* The newest checkpoint, read once by all ranks together, each its share of the rows. */
static gr_status open_newest(gr_trainer *t, gr_ckpt **ck, const gr_ckpt_piece *piece, int64_t n)
{
    gr_status      st = GR_OK;
    gr_ckpt_piece *own = NULL;

    GR_TRY(gr_agree(t->run->comm, gr_alloc(&own, (uint64_t)n, sizeof *own, "checkpoint plan")));
    for (int64_t i = 0; i < n; i++) own[i] = piece[i];
    gr_ckpt_deal(own, n, gr_comm_rank(t->run->comm), gr_comm_size(t->run->comm));
    GR_TRY(gr_ckpt_open_newest(ck, t->ckpt, own, n));
out:
    gr_free(&own);
    return st;
}

static gr_status resume(gr_trainer *t)
{
    gr_status      st = GR_OK;
    gr_ckpt       *ck = NULL;
    gr_ckpt_piece *piece = NULL;
    char          *names = NULL;
    json_t        *meta = NULL;
    const char    *config = NULL, *inputs = NULL;
    int64_t        n = 0;

    GR_TRY(gr_agree(t->run->comm, list_pieces(t, &piece, &names, &n)));
    GR_TRY(open_newest(t, &ck, piece, n));
    if (!ck) goto out;
    GR_TRY(gr_json_parse(gr_ckpt_meta(ck), strlen(gr_ckpt_meta(ck)), "checkpoint meta", &meta));
    GR_TRY(gr_json_get_str(meta, "checkpoint meta", "config", &config));
    GR_TRY(gr_json_get_str(meta, "checkpoint meta", "inputs", &inputs));
    GR_TRY(gr_json_get_int(meta, "checkpoint meta", "tokens", 0, INT64_MAX, &t->tokens));
    GR_TRY(gr_same_config(t->run, config, "the newest checkpoint"));
    GR_CHECK0(
        !strcmp(inputs, t->inputs), GR_ERR_INPUT,
        "the inputs changed since the newest checkpoint: it was made from %s, now there is %s; choose another run.out",
        inputs, t->inputs);
    for (int64_t i = 0; i < n; i++) GR_TRY(gr_ckpt_fits(ck, &piece[i]));
    GR_TRY(gr_ckpt_spread(t->run->comm, piece, n));
    t->step = gr_ckpt_step(ck);
    gr_log0("resumed at step %lld of %lld", (long long)t->step, (long long)t->run->cfg->train.steps);
out:
    json_decref(meta);
    gr_free(&names);
    gr_free(&piece);
    gr_ckpt_close(&ck);
    return st;
}

/* What the manifest keeps beside the tensors: how to resume, and how to read it as a model (store/weights.h). */
static gr_status describe(const gr_trainer *t, char **text)
{
    gr_status             st = GR_OK;
    const gr_model       *m = t->model;
    const gr_weights_base base = {.config_json = m->config_json,
                                  .pattern = m->pattern,
                                  .path = m->source_path,
                                  .content = m->source,
                                  .tokenizer = t->run->cfg->start.tokenizer,
                                  .tokenizer_json = m->tokenizer_json};
    json_t               *model = NULL, *meta = NULL;

    GR_TRY(gr_weights_refer(&base, &model));
    meta = json_pack("{s:s, s:s, s:s, s:I, s:O}", "program", t->run->program, "config", t->run->config_text, "inputs",
                     t->inputs, "tokens", (json_int_t)t->tokens, "model", model);
    GR_TRY(gr_json_dump(meta, 0, text));
out:
    json_decref(model);
    json_decref(meta);
    return st;
}

/* A save that fails in the middle of a run is not the end of it. */
static gr_status outcome(const gr_trainer *t, gr_status st)
{
    if (st == GR_ERR_SAVE) {
        gr_log0("step %lld: no checkpoint; training goes on, the older ones are intact", (long long)t->saving);
        return GR_OK;
    }
    return st;
}

static void say_saved(const gr_trainer *t)
{
    const gr_ckpt_saved *saved = gr_ckpt_last(t->ckpt);

    if (saved->step != t->saving) return; /* it was there already */
    gr_log0("step %lld saved: %.1f MB in %.2f s", (long long)saved->step, (double)saved->bytes * 1e-6, saved->seconds);
}

static gr_status publish(gr_trainer *t)
{
    gr_status st = GR_OK;

    if (gr_ckpt_phase_of(t->ckpt) != GR_CKPT_WRITING) return GR_OK;
    GR_TRY(gr_ckpt_publish(t->ckpt));
    say_saved(t);
out:
    return outcome(t, st);
}

static gr_status settle(gr_trainer *t)
{
    const gr_status st = gr_ckpt_settle(t->ckpt);

    if (st == GR_ERR_SAVE) t->again = !t->retrying; /* once: a disk that lies must not be filled with bad-* */
    return outcome(t, st);
}

/* The next phase of what is under way, without waiting: the writers are done. */
static gr_status advance(gr_trainer *t)
{
    const double    start = gr_now();
    const gr_status st = gr_ckpt_phase_of(t->ckpt) == GR_CKPT_WRITING ? publish(t) : settle(t);

    t->written = false;
    t->saving_s += gr_now() - start;
    return st;
}

/* `last`: wait until it is there; there is no training beside which it could be written. */
static gr_status save(gr_trainer *t, bool last)
{
    gr_status                st = GR_OK;
    const gr_cfg_checkpoint *cfg = &t->run->cfg->checkpoint;
    gr_ckpt_piece           *piece = NULL;
    char                    *names = NULL, *text = NULL;
    const double             start = gr_now();
    int64_t                  n = 0;

    GR_TRY(publish(t));
    GR_TRY(settle(t));
    t->saving = t->step;
    t->save_begun_s = start;
    t->retrying = t->again;
    t->again = t->written = false;
    st = list_pieces(t, &piece, &names, &n);
    if (st == GR_OK) st = describe(t, &text);
    GR_TRY(gr_agree(t->run->comm, st));
    gr_ckpt_deal(piece, n, gr_comm_rank(t->run->comm), gr_comm_size(t->run->comm));
    st = (last || !cfg->async ? gr_ckpt_save : gr_ckpt_begin)(t->ckpt, t->step, piece, n, text, (int)cfg->keep);
    if (st == GR_OK && gr_ckpt_phase_of(t->ckpt) == GR_CKPT_IDLE) say_saved(t);
    if (st == GR_ERR_SAVE && gr_ckpt_last(t->ckpt)->step == t->step) t->again = !t->retrying; /* there, but damaged */
    if (!last) st = outcome(t, st);
    t->saving_s += gr_now() - start;
out:
    gr_free(&text);
    gr_free(&names);
    gr_free(&piece);
    return st;
}

/* ---- life of a trainer ------------------------------------------------------------------------- */

gr_status gr_trainer_open(gr_trainer **out, gr_run *run, gr_model *model, const gr_model *teacher, gr_loader *loader,
                          int64_t n_sum)
{
    gr_status        st = GR_OK;
    gr_trainer      *t = NULL;
    const gr_logits *logits = gr_loader_logits(loader);
    char             path[GR_PATH_MAX];

    st = gr_alloc(&t, 1, sizeof *t, "trainer");
    if (st == GR_OK) {
        t->run = run;
        t->ops = run->ops;
        t->model = model;
        snprintf(t->inputs, sizeof t->inputs, "weights %s teacher %s text %s logits %s", model->source,
                 teacher ? teacher->source : "-", gr_shards_digest(gr_loader_shards(loader)),
                 logits ? gr_logits_digest(logits) : "-");
        t->n_sum = n_sum;
        t->sum = gr_view1(NULL, GR_F64, n_sum);
        st = run->ops->alloc(&t->sum.data, (uint64_t)n_sum * sizeof(double), "sums");
        if (st == GR_OK) st = gr_alloc(&t->host_sum, (uint64_t)n_sum + N_SAYS, sizeof(double), "sums");
    }
    GR_TRY(gr_agree(run->comm, st));
    GR_TRY(gr_path(path, "%s/ckpt", run->cfg->run.out));
    GR_TRY(gr_ckpt_dir_open(&t->ckpt, run->comm, path));
    GR_TRY(resume(t));
    GR_TRY(gr_path(path, "%s/config.yaml", run->cfg->run.out));
    if (gr_comm_rank(run->comm) == 0) st = gr_write_file(path, run->config_text, strlen(run->config_text));
    GR_TRY(gr_agree(run->comm, st));
    GR_TRY(gr_path(path, "%s/metrics.jsonl", run->cfg->run.out));
    GR_TRY(gr_metrics_open(&t->metrics, run->comm, path, t->step));
    gr_log0("%s: %.3f M parameters, %.3f M of them trained; %d ranks, %d threads each", run->program,
            (double)gr_params_total(model->params) * 1e-6, (double)gr_params_trainable(model->params) * 1e-6,
            gr_comm_size(run->comm), run->threads);
    t->step_start_s = t->save_begun_s = gr_now();
    *out = t;
    t = NULL;
out:
    gr_trainer_close(&t);
    return st;
}

void gr_trainer_close(gr_trainer **tp)
{
    gr_trainer *t = *tp;

    if (!t) return;
    gr_metrics_close(&t->metrics);
    gr_ckpt_dir_close(&t->ckpt);
    gr_free(&t->host_sum);
    if (t->sum.data) t->ops->free(&t->sum.data);
    gr_free(tp);
}

bool gr_trainer_more(const gr_trainer *t, const gr_step *done)
{
    return t->step < t->run->cfg->train.steps && !done->stop;
}

/* [rank 0 decides] */
static bool overdue(const gr_trainer *t)
{
    const double minutes = t->run->cfg->checkpoint.minutes;

    return gr_comm_rank(t->run->comm) == 0 && minutes > 0 && gr_now() - t->save_begun_s >= 60 * minutes;
}

gr_status gr_trainer_reduce(gr_trainer *t, bool *stop)
{
    gr_status st = GR_OK;
    double   *s = t->host_sum, *says = s + t->n_sum;

    t->ops->copy(s, t->sum.data, (uint64_t)t->n_sum * sizeof *s, GR_TO_HOST, NULL);
    says[STOP] = gr_stop_requested();
    says[FAILED] = t->local != GR_OK;
    says[WRITING] = gr_ckpt_phase_of(t->ckpt) != GR_CKPT_IDLE && !gr_ckpt_written(t->ckpt);
    says[LATE] = overdue(t);
    gr_sum_f64(t->run->comm, s, t->n_sum + N_SAYS);
    if (says[FAILED] > 0) GR_TRY(gr_agree(t->run->comm, t->local));
    *stop = says[STOP] > 0;
    t->written = gr_ckpt_phase_of(t->ckpt) != GR_CKPT_IDLE && says[WRITING] == 0;
    t->late = says[LATE] > 0;
out:
    return st;
}

gr_status gr_trainer_update(gr_trainer *t, double grad_scale, gr_step *done)
{
    gr_status        st = GR_OK;
    const gr_config *cfg = t->run->cfg;
    const gr_params *ps = t->model->params;

    /* On cpu gradients are host memory; another backend reduces through its own communicator. */
    for (int64_t i = 0; i < ps->n_unit; i++)
        if (ps->unit[i].grad.data) gr_sum_f32(t->run->mesh->data, ps->unit[i].grad.data, ps->unit[i].n);
    done->grad_norm = gr_grad_norm(ps, gr_rows(t->sum, 0, 1), grad_scale);
    GR_CHECK0(
        isfinite(done->loss) && isfinite(done->grad_norm), GR_ERR_NUMERIC,
        "step %lld: loss %g, gradient norm %g: not finite; the last checkpoint is intact, a lower optim.lr may help",
        (long long)t->step, done->loss, done->grad_norm);
    done->lr = gr_learning_rate(&cfg->optim, &cfg->schedule, t->step, cfg->train.steps);
    gr_adamw_step(t->model->params, &cfg->optim, done->lr, t->step, grad_scale, done->grad_norm);
out:
    return st;
}

static void record(gr_trainer *t, const gr_step *done, double seconds)
{
    gr_metrics          *m = t->metrics;
    const gr_ckpt_saved *saved = gr_ckpt_last(t->ckpt);

    gr_metrics_begin(m, t->step);
    gr_metrics_num(m, "loss", done->loss);
    if (done->n_layer) {
        gr_metrics_nums(m, "layers", done->layer_loss, done->n_layer);
        gr_metrics_nums(m, "layer_ids", done->layer_id, done->n_layer);
    } else {
        gr_metrics_num(m, "ce", done->ce);
        gr_metrics_num(m, "kl", done->kl);
    }
    gr_metrics_num(m, "lr", done->lr);
    gr_metrics_num(m, "grad_norm", done->grad_norm);
    gr_metrics_int(m, "tokens", t->tokens);
    gr_metrics_num(m, "tokens_per_s", (double)done->tokens / seconds);
    gr_metrics_num(m, "seconds", seconds);
    if (t->saving_s > 0) gr_metrics_num(m, "saving_s", t->saving_s);
    if (saved->step != t->told) {
        gr_metrics_int(m, "saved_step", saved->step);
        gr_metrics_num(m, "writer_s", saved->seconds);
        gr_metrics_int(m, "writer_bytes", saved->bytes);
        t->told = saved->step;
    }
    if (t->local == GR_OK) t->local = gr_metrics_end(m);
    t->saving_s = 0;
}

gr_status gr_trainer_after(gr_trainer *t, const gr_step *done)
{
    gr_status        st = GR_OK;
    const gr_config *cfg = t->run->cfg;
    const double     now = gr_now(), seconds = now - t->step_start_s;
    const bool       last = t->step + 1 == cfg->train.steps || done->stop;
    char             note[96];

    t->step_start_s = now;
    t->step++;
    t->tokens += done->tokens;
    record(t, done, seconds);
    snprintf(note, sizeof note, "loss %.4f, %.0f tokens/s", done->loss, (double)done->tokens / seconds);
    gr_progress(t->run, t->run->program, t->step, cfg->train.steps, note);
    if (t->step % cfg->train.log_every == 0 || last)
        gr_log0("step %lld/%lld  loss %.5f  lr %.2e  |g| %.3f  %.0f tokens/s", (long long)t->step,
                (long long)cfg->train.steps, done->loss, done->lr, done->grad_norm, (double)done->tokens / seconds);
    if (t->written) GR_TRY(advance(t));
    if (t->step % cfg->checkpoint.every == 0 || t->late || t->again || last) GR_TRY(save(t, last));
out:
    return st;
}

bool gr_trainer_heldout_due(const gr_trainer *t)
{
    const gr_config *cfg = t->run->cfg;

    return *cfg->heldout.shards && (t->step % cfg->heldout.every == 0 || t->step == cfg->train.steps);
}

void gr_trainer_note(gr_trainer *t, const char *key, double value)
{
    gr_metrics_begin(t->metrics, t->step);
    gr_metrics_int(t->metrics, "tokens", t->tokens);
    gr_metrics_num(t->metrics, key, value);
    if (t->local == GR_OK) t->local = gr_metrics_end(t->metrics);
    t->step_start_s = gr_now(); /* measuring is not training */
}

gr_status gr_trainer_finish(gr_trainer *t, const gr_product *product, const gr_step *done)
{
    gr_status st = GR_OK;

    GR_TRY(gr_agree(t->run->comm, t->local));
    if (done->stop && t->step < t->run->cfg->train.steps) {
        gr_log0("stopped as asked after step %lld of %lld, saved", (long long)t->step,
                (long long)t->run->cfg->train.steps);
        st = GR_STOP;
        goto out;
    }
    GR_TRY(gr_model_save(t->model, t->run->comm, product->path, &product->by));
    gr_log0("wrote %s", product->path);
out:
    return st;
}
