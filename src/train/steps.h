/** @file steps.h  One optimiser step of each kind of training.
 *
 * A step goes through this rank's micro-batches, adds up gradients of the *sum* of the losses, reduces sums and
 * gradients over ranks, divides once, and updates. A rank whose data cannot be read still takes part in every
 * reduction: all ranks learn of it there and leave together.
 */
#ifndef GR_TRAIN_STEPS_H
#define GR_TRAIN_STEPS_H
#include "train/trainer.h"

GR_C_BEGIN

/** [collective] Distillation and next-token training: (1 - kl) CE + kl KL. kl 0 needs no stored logits. t->n_sum >= 3.
 */
gr_status gr_token_step(gr_trainer *t, gr_loader *loader, double kl, gr_step *done);

/** Alignment: the teacher runs forward; each new mixer gets the input of the attention it replaces and learns to give
 * its output. */
typedef struct gr_aligner gr_aligner;

/** [collective] t->model holds the new mixers only (GR_NEW_MIXERS); teacher is whole, of the same shape. t->n_sum >= 4
 * * n_layer. */
gr_status gr_aligner_open(gr_aligner **a, gr_trainer *t, gr_model *teacher);
void      gr_aligner_close(gr_aligner **a);

/** [collective] Before the first step of a run (later it does nothing): scale each mixer's gain (kernels/mixer.h) so
 * that its output h fits its target y best over the first global batch, s = <h, y> / <h, h>, but no smaller than a
 * tenth of |y| / |h|, so that gradients can pass. Layers whose gain is frozen are left alone.
 *
 * A mixer that inherits attention's projections has its direction, roughly, but not its scale: norm and gate are new,
 * and an output many times too large takes hundreds of steps to shrink. */
gr_status gr_align_calibrate(gr_aligner *a, gr_loader *loader);

/** Layers that are aligned. */
int gr_aligner_layers(const gr_aligner *a);

/** [collective] loss of layer l = sum |h - y|^2 / sum |y|^2 over the tokens of the global batch: 1 means no better than
 * zero.
 *
 * Source  Bick et al. 2024, arXiv:2408.10189, stage 2, normalised per layer (docs/math.md 8.3). */
gr_status gr_align_step(gr_aligner *a, gr_loader *loader, gr_step *done);

/** [collective] The mean of these errors over the layers, on held-out text, without learning. */
gr_status gr_align_measure(gr_aligner *a, gr_shards *shards, int64_t context, int64_t limit, double *mean);

GR_C_END
#endif
