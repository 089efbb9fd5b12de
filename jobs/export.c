/**
 * export -- write a HuggingFace directory in hybrid-model-factory's naming.
 *
 *   reads    model.weights     any weights .h5
 *   writes   run.out/          config.json, tokenizer.json, *.safetensors
 */
#include "model/import.h"
#include "product/product.h"

int main(int argc, char **argv)
{
    gr_run    *run = NULL;
    gr_product product = {0}; /* the directory, which appears when it is complete */
    gr_status  st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "export"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_product_open(&product, run, NULL));
    if (product.finished) goto out;
    GR_TRY(gr_export(run->comm, run->cfg->model.weights, &run->cfg->export, product.path));
    GR_TRY(gr_product_finish(&product));
out:
    gr_product_close(&product);
    return gr_run_close(&run, st);
}
