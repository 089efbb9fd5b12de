/** @file product.h  What a stage leaves behind, once: the same for every program that makes something.
 *
 *     GR_TRY(gr_product_open(&product, run, "weights.h5"));
 *     if (product.finished) goto out;
 *     ... make product.path, or go on making it ...
 *     GR_TRY(gr_product_finish(&product));
 *   out:
 *     gr_product_close(&product);
 *
 *     run.out/graft.json     the record, written last: program, version, commit, created; the configuration; identity
 * of every input and of the product (product/identity.h). Sealed JSON. While it is absent the stage is not finished
 *     run.out.lock           held while a run works on it; says which
 *
 * For a run.out that is a file, FILE.h5, the record is FILE.h5.json.
 */
#ifndef GR_PRODUCT_PRODUCT_H
#define GR_PRODUCT_PRODUCT_H
#include "run/run.h"
#include "store/weights.h"
#include "util/fs.h"
#include "util/json.h"

GR_C_BEGIN

typedef struct gr_product {
    char          path[GR_PATH_MAX]; /**< where to make it                                                        */
    bool          finished;          /**< it is there, of this configuration and these inputs: nothing is left to do */
    gr_provenance by;                /**< for files that say who wrote them                                       */
    /* product.c's: */
    const gr_run *run;
    bool          whole;               /* all of run.out is made, and appears by one rename */
    char          out[GR_PATH_MAX];    /* run.out, without slashes at its end      */
    char          record[GR_PATH_MAX]; /* where the record goes                    */
    char          lock_path[GR_PATH_MAX];
    int           lock;   /* rank 0: held; -1 elsewhere, and before                   */
    json_t       *inputs; /* rank 0: {"model.weights": {"path", "content"}}, as it is now */
    char         *inputs_json;
} gr_product;

/** [collective] Is there anything to do in run.out? If so, lock it (10 s, then GR_LOCKED) and make the directory that
 * p->path goes to. `name` is the product's file in run.out; "weights.h5" may also be run.out itself, if that ends in
 * .h5 and the program does not train. NULL: all of run.out, which is made as run.out.partial and renamed at the end.
 *
 * GR_ERR_CONFIG: another program's product is there, or one of another configuration. GR_ERR_INPUT: an input is not
 * what the product was made from. An input that is gone is none of these: scratch gets cleaned up. Keys that are
 * GR_FREE in keys.def may differ. Whatever has no record is not finished, and is the stage's to use or to write again.
 */
gr_status gr_product_open(gr_product *p, const gr_run *run, const char *name);

/** [collective] p->path is complete: write the record, let go of the lock. */
gr_status gr_product_finish(gr_product *p);

/** [collective] Let go. Also after gr_product_open failed, and of one that is all zero. */
void gr_product_close(gr_product *p);

/** [collective] Lock run.out and nothing more: for a program that makes its product anew each time. */
gr_status gr_product_lock(gr_product *p, const gr_run *run);

/** [collective] gr_config_same with the configuration of this run, asked by rank 0. */
gr_status gr_same_config(const gr_run *run, const char *then, const char *what);

GR_C_END
#endif
