/** @file trainer.h  What every training program shares: its output directory, resuming, saving, logging, the loop's
 * bookkeeping.
 *
 *     run.out/ckpt/step-...     checkpoints (store/checkpoint.h): trainable parameters, optimiser moments, step
 *     run.out/metrics.jsonl     one object per step; cut back at resume to the checkpoint's step
 *     run.out/config.yaml       the resolved configuration
 *     run.out/weights.h5        the product; written last: while it is absent the run is not finished
 *
 * A checkpoint of another configuration is an error, except for keys that cannot change the result, as is a product
 * (product/product.h).
 */
#ifndef GR_TRAIN_TRAINER_H
#define GR_TRAIN_TRAINER_H
#include "data/loader.h"
#include "model/model.h"
#include "optim/optim.h"
#include "product/product.h"
#include "run/metrics.h"
#include "run/run.h"
#include "store/checkpoint.h"

GR_C_BEGIN

/** Equal on all ranks after a step. */
typedef struct gr_step {
    double loss, ce,
        kl; /**< means over counted positions [nats]; align: loss is the mean over layers of the normalised error */
    double        grad_norm, lr;
    int64_t       tokens;     /**< positions that went through the model                                        */
    bool          stop;       /**< somebody was asked to stop: save and leave                                   */
    int           n_layer;    /**< align: entries of layer_loss, else 0                                         */
    const double *layer_loss; /**< [n_layer]; owned by whoever made the step                                     */
    const double *layer_id;   /**< [n_layer] which layers of the model they are                                  */
} gr_step;

typedef struct gr_trainer {
    gr_run       *run;
    const gr_ops *ops;
    gr_model     *model; /**< what is trained; borrowed                                                    */
    gr_ckpt_dir  *ckpt;
    gr_metrics   *metrics;
    char inputs[192];   /**< contents of what it learns from: "weights ... teacher ... text ... logits ..." */
    gr_tensor sum;      /**< F64 [n_sum] on the backend: sums of a step                                    */
    double   *host_sum; /**< the same on the host, and what ranks tell each other beside it (trainer.c)     */
    int64_t   n_sum;
    int64_t   step;   /**< steps done                                                                   */
    int64_t   tokens; /**< positions trained on so far                                                  */
    double    step_start_s;
    double    saving_s;     /**< training waited so long for saving since the last record                       */
    double    save_begun_s; /**< the last save, or the start                                                    */
    bool      written;      /**< all ranks: the writers are done                                                */
    bool      late;         /**< all ranks: checkpoint.minutes have passed                                      */
    bool      again;        /**< all ranks: the last checkpoint read back damaged                               */
    int64_t   saving;       /**< step of the last save that was begun                                           */
    int64_t   told;         /**< step of the last checkpoint in metrics.jsonl                                   */
    gr_status local; /**< error of this rank that the next reduction will carry to all                 */
} gr_trainer;

/** [collective] Lock run.out, load the newest checkpoint into `model` if there is one, open metrics. A checkpoint made
 * from other weights, another teacher, other text or other logits than these is refused. teacher may be NULL. n_sum:
 * sums a step needs. */
gr_status gr_trainer_open(gr_trainer **t, gr_run *run, gr_model *model, const gr_model *teacher, gr_loader *loader,
                          int64_t n_sum);
void      gr_trainer_close(gr_trainer **t);

/** [local] True while there are steps to do and nobody asked to stop. */
bool gr_trainer_more(const gr_trainer *t, const gr_step *done);

/** [collective] Add t->sum of all ranks into t->host_sum, and learn whether any rank failed (same status on all ranks)
 * or was asked to stop. */
gr_status gr_trainer_reduce(gr_trainer *t, bool *stop);

/** [collective] Reduce gradients over ranks, clip, update. grad_scale turns the sum into a mean. */
gr_status gr_trainer_update(gr_trainer *t, double grad_scale, gr_step *done);

/** [collective] Count the step, record it, publish what the writers have finished, begin a checkpoint when due: every
 * checkpoint.every steps, after checkpoint.minutes, and when one was read back damaged. At the end of the run, and when
 * asked to stop, wait until the last one is there. GR_ERR_SAVE only if that one failed. */
gr_status gr_trainer_after(gr_trainer *t, const gr_step *done);

/** [local] True when held-out text is to be looked at now: every heldout.every steps and after the last. */
bool gr_trainer_heldout_due(const gr_trainer *t);

/** [local] A record of its own in metrics.jsonl: held-out results at the current step. */
void gr_trainer_note(gr_trainer *t, const char *key, double value);

/** [collective] After the loop: GR_STOP when it was left early (saved), else write the product, weights.h5. */
gr_status gr_trainer_finish(gr_trainer *t, const gr_product *product, const gr_step *done);

GR_C_END
#endif
