/**
 * import -- read a HuggingFace checkpoint into weights .h5.
 *
 *   reads    import.model      directory: config.json, *.safetensors, tokenizer.json
 *   writes   run.out           weights .h5, or a directory that gets weights.h5
 */
#include "model/import.h"
#include "product/product.h"

int main(int argc, char **argv)
{
    gr_run    *run = NULL;
    gr_product product = {0}; /* where it goes, and whether it is there */
    gr_status  st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "import"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_product_open(&product, run, "weights.h5"));
    if (product.finished) goto out;
    GR_TRY(gr_import(run->comm, run->cfg->import.model, product.path, &product.by));
    GR_TRY(gr_product_finish(&product));
out:
    gr_product_close(&product);
    return gr_run_close(&run, st);
}
