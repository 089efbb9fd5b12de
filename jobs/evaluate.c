/**
 * evaluate -- perplexity and KL to the teacher on held-out text, or raw logits for given ids.
 *
 *   reads    model.weights       any weights .h5
 *            evaluate.shards     tokens            (graft-tokenize)
 *            evaluate.teacher    Transformer, for KL; may be empty
 *   writes   run.out/            results.json, or logits.h5 (task: logits)
 */
#include "product/product.h"
#include "train/results.h"

int main(int argc, char **argv)
{
    gr_run    *run = NULL;
    gr_model  *model = NULL, *teacher = NULL;
    gr_shards *shards = NULL;
    gr_product product = {0};
    gr_status  st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "evaluate"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_results_check(run));
    GR_TRY(gr_product_open(&product, run, *run->cfg->evaluate.ids ? "logits.h5" : "results.json"));
    if (product.finished) goto out;
    GR_TRY(gr_model_open(&model, run->comm, run->ops, run->cfg->model.weights, GR_WHOLE, NULL, 0));
    GR_TRY(gr_model_iterate(model, &run->cfg->solver));
    if (*run->cfg->evaluate.ids) {
        GR_TRY(gr_results_logits(run, model, product.path));
    } else {
        if (*run->cfg->evaluate.teacher)
            GR_TRY(gr_model_open(&teacher, run->comm, run->ops, run->cfg->evaluate.teacher, GR_WHOLE, NULL, 0));
        GR_TRY(gr_shards_open(&shards, run->comm, run->cfg->evaluate.shards));
        GR_TRY(gr_results_perplexity(run, model, teacher, shards, product.path));
    }
    GR_TRY(gr_product_finish(&product));
out:
    gr_shards_close(&shards);
    gr_model_close(&teacher);
    gr_model_close(&model);
    gr_product_close(&product);
    return gr_run_close(&run, st);
}
