/**
 * extend -- next-token training: a hybrid at longer context, or a new Transformer from nothing.
 *
 *   reads    start.weights     hybrid            (graft-distill), or start.config for a new model
 *            data.shards       tokens            (graft-tokenize)
 *   writes   run.out/          weights.h5, checkpoints, metrics.jsonl, config.yaml
 *   resumes  from the newest complete checkpoint in run.out, on any number of ranks
 */
#include "train/heldout.h"
#include "train/start.h"
#include "train/steps.h"

int main(int argc, char **argv)
{
    gr_run     *run = NULL; /* ranks, backend, configuration                       */
    gr_model   *model = NULL;
    gr_loader  *loader = NULL;  /* micro-batches: a pure function of the step          */
    gr_trainer *trainer = NULL; /* output directory, checkpoints, optimiser, metrics   */
    gr_heldout *heldout = NULL;
    gr_step     done = {0};    /* equal on all ranks                                  */
    gr_product  product = {0}; /* weights.h5: locked, and is there anything to do?    */
    gr_status   st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "extend"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_product_open(&product, run, "weights.h5"));
    if (product.finished) goto out;
    GR_TRY(gr_start_model(&model, run));
    GR_TRY(gr_loader_open(&loader, run->comm, run->mesh->data, run->ops, &run->cfg->data, &run->cfg->train, "",
                          model->spec.vocab));
    GR_TRY(gr_trainer_open(&trainer, run, model, NULL, loader, 3));
    GR_TRY(gr_heldout_open(&heldout, run));

    while (gr_trainer_more(trainer, &done)) {
        GR_TRY(gr_token_step(trainer, loader, 0, &done));
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
