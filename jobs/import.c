/**
 * import -- read a HuggingFace checkpoint into weights .h5.
 *
 *   reads    import.model      directory: config.json, *.safetensors, tokenizer.json
 *   writes   run.out           weights .h5, or a directory that gets weights.h5
 */
#include "model/import.h"
#include "train/product.h"

int main(int argc, char **argv)
{
    gr_run    *run = NULL;
    gr_product product = {0}; /* path and provenance of what is written */
    gr_status  st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "import"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_product_open(&product, run, run->cfg->import.model));
    if (!product.finished) GR_TRY(gr_import(run->comm, run->cfg->import.model, product.path, &product.by));
out:
    gr_product_close(&product);
    return gr_run_close(&run, st);
}
