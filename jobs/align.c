/**
 * align -- teach each new mixer to reproduce the attention it replaces.
 *
 * The teacher runs forward; every new mixer receives the input of the attention it replaces and learns to give its
 * output. All other weights stay frozen, and the layers learn independently of one another: an error in one cannot
 * reach the next. Before the first step each mixer's output is scaled to its target.
 *
 *   reads    model.weights     hybrid            (graft-convert)
 *            teacher.weights   Transformer       (graft-import)
 *            data.shards       tokens            (graft-tokenize)
 *   writes   run.out/          weights.h5, checkpoints, metrics.jsonl, config.yaml
 *   resumes  from the newest complete checkpoint in run.out, on any number of ranks
 *   source   Bick et al. 2024, arXiv:2408.10189 (MOHAWK), stage 2
 */
#include "train/heldout.h"
#include "train/steps.h"

int main(int argc, char **argv)
{
    gr_run     *run = NULL;     /* ranks, backend, configuration                       */
    gr_model   *teacher = NULL; /* whole, forward only                                 */
    gr_model   *student = NULL; /* the new mixers only                                 */
    gr_loader  *loader = NULL;  /* micro-batches: a pure function of the step          */
    gr_trainer *trainer = NULL; /* output directory, checkpoints, optimiser, metrics   */
    gr_aligner *aligner = NULL;
    gr_heldout *heldout = NULL;
    gr_step     done = {0};    /* equal on all ranks                                  */
    gr_product  product = {0}; /* weights.h5: locked, and is there anything to do?    */
    gr_status   st = GR_OK;

    /* Every call returns one status on all ranks: all go on, or all arrive at `out` together. */
    GR_TRY(gr_run_open(&run, argc, argv, "align"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_product_open(&product, run, "weights.h5"));
    if (product.finished) goto out;
    GR_TRY(gr_model_open(&teacher, run->comm, run->ops, run->cfg->teacher.weights, GR_WHOLE, NULL, 0));
    GR_TRY(
        gr_model_open(&student, run->comm, run->ops, run->cfg->model.weights, GR_NEW_MIXERS, run->cfg->train.only, 0));
    GR_TRY(gr_model_iterate(student, &run->cfg->solver));
    GR_TRY(gr_loader_open(&loader, run->comm, run->mesh->data, run->ops, &run->cfg->data, &run->cfg->train, "",
                          teacher->spec.vocab));
    GR_TRY(gr_trainer_open(&trainer, run, student, teacher, loader, 4 * student->spec.n_layer));
    GR_TRY(gr_aligner_open(&aligner, trainer, teacher));
    GR_TRY(gr_heldout_open(&heldout, run));
    if (run->cfg->align.calibrate) GR_TRY(gr_align_calibrate(aligner, loader));

    while (gr_trainer_more(trainer, &done)) {
        GR_TRY(gr_align_step(aligner, loader, &done));
        GR_TRY(gr_trainer_after(trainer, &done));
        GR_TRY(gr_heldout_align(heldout, trainer, aligner));
    }
    GR_TRY(gr_trainer_finish(trainer, &product, &done));
    GR_TRY(gr_product_finish(&product));
out:
    gr_heldout_close(&heldout);
    gr_aligner_close(&aligner);
    gr_trainer_close(&trainer);
    gr_loader_close(&loader);
    gr_model_close(&student);
    gr_model_close(&teacher);
    gr_product_close(&product);
    return gr_run_close(&run, st);
}
