/**
 * convert -- replace attention layers by recurrent mixers, initialised from the attention they replace.
 *
 *   reads    model.weights     Transformer       (graft-import)
 *   writes   run.out           hybrid weights .h5, or a directory that gets weights.h5
 *   source   docs/math.md 2.1: the initialisation of AWS hybrid-model-factory
 */
#include "model/import.h"
#include "product/product.h"

int main(int argc, char **argv)
{
    gr_run    *run = NULL;
    gr_product product = {0}; /* where it goes, and whether it is there */
    gr_status  st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "convert"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_product_open(&product, run, "weights.h5"));
    if (product.finished) goto out;
    GR_TRY(gr_convert(run->comm, run->cfg->model.weights, &run->cfg->convert, &run->cfg->mixer, product.path,
                      &product.by));
    GR_TRY(gr_product_finish(&product));
out:
    gr_product_close(&product);
    return gr_run_close(&run, st);
}
