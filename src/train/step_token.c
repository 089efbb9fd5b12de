#include "loss/token.h"
#include "train/steps.h"
#include "util/beat.h"

/* Forward, loss and backward of one micro-batch; sums and gradients are added to what is there. */
static gr_status learn(gr_trainer *t, const gr_batch *b, double kl)
{
    gr_status  st = GR_OK;
    gr_model  *m = t->model;
    gr_param  *head = &m->params->p[m->at.head];
    gr_targets targets = b->targets;
    gr_tensor  h, dh;

    targets.kl = (float)kl;
    GR_TRY(gr_model_forward(m, b->ids, &b->seq, true, NULL, NULL, &h));
    dh = gr_take2(m->keep, GR_F32, h.dim[0], h.dim[1]);
    GR_TRY(gr_arena_status(m->keep));
    GR_TRY(gr_token_loss(m->ops, m->scratch, dh, head->grad, gr_rows(t->sum, 0, 3), h, head->value, &targets));
    GR_TRY(gr_model_backward(m, b->ids, &b->seq, dh));
    GR_TRY(gr_model_reset(m));
out:
    return st;
}

gr_status gr_token_step(gr_trainer *t, gr_loader *loader, double kl, gr_step *done)
{
    gr_status     st = GR_OK;
    const int64_t n = gr_loader_micros(loader, t->step);
    double       *s = t->host_sum;
    gr_batch      batch;

    gr_beat_step(t->step + 1);
    gr_params_zero_grad(t->model->params);
    t->ops->zero(t->sum, NULL);
    for (int64_t i = 0; i < n && t->local == GR_OK; i++) {
        t->local = gr_loader_get(loader, t->step, i, &batch);
        if (t->local == GR_OK) t->local = learn(t, &batch, kl);
    }
    GR_TRY(gr_trainer_reduce(t, &done->stop));
    GR_CHECK0(s[2] > 0, GR_ERR_INPUT, "step %lld: no token of the batch can be predicted", (long long)t->step);
    done->ce = s[0] / s[2];
    done->kl = s[1] / s[2];
    done->loss = (1 - kl) * done->ce + kl * done->kl;
    done->tokens = gr_loader_step_tokens(loader);
    done->n_layer = 0;
    GR_TRY(gr_trainer_update(t, 1.0 / s[2], done));
out:
    return st;
}
