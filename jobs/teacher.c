/**
 * teacher -- store the teacher's top-k log-probabilities and tail mass for every token.
 *
 *   reads    model.weights     Transformer       (graft-import)
 *            data.shards       tokens            (graft-tokenize)
 *   writes   run.out/          logits files and index.json: serves every student and every sweep member
 *   resumes  skips the files that are there
 */
#include "product/product.h"
#include "train/teacher.h"

int main(int argc, char **argv)
{
    gr_run    *run = NULL;
    gr_model  *model = NULL;
    gr_shards *shards = NULL;
    gr_product product = {0}; /* the index, which is published last */
    gr_status  st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "teacher"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_product_open(&product, run, "index.json"));
    if (product.finished) goto out;
    GR_TRY(gr_model_open(&model, run->comm, run->ops, run->cfg->model.weights, GR_WHOLE, NULL, 0));
    GR_TRY(gr_shards_open(&shards, run->comm, run->cfg->data.shards));
    GR_TRY(gr_store_predictions(run, model, shards));
    GR_TRY(gr_product_finish(&product));
out:
    gr_shards_close(&shards);
    gr_model_close(&model);
    gr_product_close(&product);
    return gr_run_close(&run, st);
}
