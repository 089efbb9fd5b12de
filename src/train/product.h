/** @file product.h  The weights file a program leaves behind: where it goes, who wrote it from what, and whether it is
 * there already. */
#ifndef GR_TRAIN_PRODUCT_H
#define GR_TRAIN_PRODUCT_H
#include "run/run.h"
#include "store/weights.h"

GR_C_BEGIN

typedef struct gr_product {
    char          path[4096]; /**< run.out itself when it ends in .h5, else run.out/weights.h5            */
    bool          finished;   /**< it is there, made with this very configuration: nothing is left to do  */
    gr_provenance by;
    char         *inputs;
} gr_product;

/** [collective] `input` is the path it is made from. GR_ERR_CONFIG: there is a file made with another configuration. */
gr_status gr_product_open(gr_product *p, const gr_run *run, const char *input);
void      gr_product_close(gr_product *p);

/** [collective] Were two configurations (as printed) the same but for keys that cannot change the result? GR_ERR_CONFIG
 * names the first difference; `what` was made with `then`. */
gr_status gr_same_config(const char *now, const char *then, const char *what);

GR_C_END
#endif
