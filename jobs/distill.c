/**
 * distill -- teach the hybrid the teacher's predictions, end to end.
 *
 * The loss of a token is (1 - kl) cross-entropy + kl KL(teacher || student); the teacher's top-k log-probabilities and
 * tail mass were stored by graft-teacher once, and serve every student.
 *
 *   reads    model.weights     hybrid                       (graft-align)
 *            data.shards       tokens                       (graft-tokenize)
 *            distill.logits    the teacher's predictions    (graft-teacher)
 *   writes   run.out/          weights.h5, checkpoints, metrics.jsonl, config.yaml
 *   resumes  from the newest complete checkpoint in run.out, on any number of ranks
 *   source   Hinton, Vinyals, Dean 2015, arXiv:1503.02531; docs/math.md 9.1
 */
#include "train/heldout.h"
#include "train/steps.h"

int main(int argc, char **argv)
{
    gr_run     *run = NULL;     /* ranks, backend, configuration                       */
    gr_model   *model = NULL;   /* the student                                         */
    gr_loader  *loader = NULL;  /* micro-batches with the teacher's predictions        */
    gr_trainer *trainer = NULL; /* output directory, checkpoints, optimiser, metrics   */
    gr_heldout *heldout = NULL;
    gr_step     done = {0};    /* equal on all ranks                                  */
    gr_product  product = {0}; /* weights.h5: locked, and is there anything to do?    */
    gr_status   st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "distill"));
    if (!run) goto out; /* --help and the like */
    GR_CHECK0(run->cfg->distill.kl == 0 || *run->cfg->distill.logits, GR_ERR_CONFIG,
              "distill.kl = %g needs distill.logits", run->cfg->distill.kl);
    GR_TRY(gr_product_open(&product, run, "weights.h5"));
    if (product.finished) goto out;
    GR_TRY(gr_model_open(&model, run->comm, run->ops, run->cfg->model.weights, GR_WHOLE, run->cfg->train.only, 0));
    GR_TRY(gr_model_iterate(model, &run->cfg->solver));
    GR_TRY(gr_loader_open(&loader, run->comm, run->mesh->data, run->ops, &run->cfg->data, &run->cfg->train,
                          run->cfg->distill.logits, model->spec.vocab));
    GR_TRY(gr_trainer_open(&trainer, run, model, NULL, loader, 3));
    GR_TRY(gr_heldout_open(&heldout, run));

    while (gr_trainer_more(trainer, &done)) {
        GR_TRY(gr_token_step(trainer, loader, run->cfg->distill.kl, &done));
        GR_TRY(gr_trainer_after(trainer, &done));
        GR_TRY(gr_heldout_perplexity(heldout, trainer));
    }
    GR_TRY(gr_trainer_finish(trainer, &product, &done));
    GR_TRY(gr_product_finish(&product));
out:
    gr_heldout_close(&heldout);
    gr_trainer_close(&trainer);
    gr_loader_close(&loader);
    gr_model_close(&model);
    gr_product_close(&product);
    return gr_run_close(&run, st);
}
