/** @file model.h  One decoder for teachers and hybrids.
 *
 *     x = embedding[id]
 *     per block:  x += mixer(norm(x));  n = norm(x);  x += W_down (silu(W_gate n) * W_up n)
 *     h = norm(x)
 *
 * A teacher is a hybrid whose pattern is all attention. There is no autograd: forward keeps what backward needs on
 * tapes, backward walks the blocks in reverse. The head and the loss are loss/'s: the model ends with h, the normed
 * hidden states.
 *
 * Symbols  N tokens of a micro-batch (packed documents), hid hidden size, V vocabulary.
 */
#ifndef GR_MODEL_MODEL_H
#define GR_MODEL_MODEL_H
#include "comm/comm.h"
#include "model/pattern.h"
#include "model/spec.h"
#include "store/weights.h"
#include "tensor/params.h"

GR_C_BEGIN

typedef enum gr_parts {
    GR_WHOLE,     /**< every parameter                                                            */
    GR_NEW_MIXERS /**< only the mixers that are not attention: a student beside its teacher        */
} gr_parts;

/** A block's mixer, and the places of its parameters in the list; -1 for those that are not loaded. */
typedef struct gr_block {
    const gr_mixer      *mixer;
    const gr_mixer_core *core;
    const gr_mixer_core *inner;       /**< of the type the mixer contains, or NULL                */
    int64_t              mixer_first; /**< the type's params() follow one another                */
    int                  n_mixer;
    int64_t              norm1, norm2, gate, up, down;
} gr_block;

/** Places of all parameters. */
typedef struct gr_layout {
    gr_block *block;             /**< [n_layer], counted memory                            */
    int64_t   embed, norm, head; /**< head == embed when tied                               */
} gr_layout;

/** What a block keeps from forward for backward. */
typedef struct gr_block_tape {
    gr_tensor x_in, n1, rstd1, x_mid, n2, rstd2, g, u;
    gr_tape   mixer;
} gr_block_tape;

typedef struct gr_model {
    gr_model_spec  spec;
    gr_mixer_spec  mixer_spec;
    const gr_ops  *ops;
    gr_params     *params;
    gr_layout      at;       /**< where everything is in params                               */
    gr_block_tape *tape;     /**< [n_layer]                                                   */
    gr_tensor      inv_freq; /**< F32 [head_dim / 2] of RoPE                                   */
    gr_arena      *keep, *scratch;
    gr_tensor      x_out, rstd_out, rope_cs; /**< final residual stream and its norm, of the last forward */
    char          *config_json, *tokenizer_json, *pattern; /**< as the weights file has them        */
    char           source[32]; /**< content of the weights it came from, or "random"             */
    char          *source_path;
} gr_model;

/** [local] Add the parameters of a model to `ps` in canonical order; `at` (may be NULL) gets their places.
 * Pure layout: import checks files against it, convert and open build from it. */
gr_status gr_model_layout(gr_params *ps, const gr_model_spec *spec, const gr_mixer *const *mixer, gr_parts parts,
                          gr_layout *at);

/** What every mixer of this model is made for. */
gr_mixer_spec gr_mixer_spec_of(const gr_model_spec *spec);

/** What its parameters start from. */
gr_init_law gr_init_law_of(const gr_model_spec *spec);

/** [collective] Load weights (a file or a stage's output directory). train_only: globs of what will be trained, NULL
 * for a model that only runs forward. rope_theta 0 keeps the model's own. */
gr_status gr_model_open(gr_model **m, const gr_comm *c, const gr_ops *ops, const char *weights, gr_parts parts,
                        const char *train_only, double rope_theta);

/** [local] From now on the solvers of mixers make another number of iterations than the model was converted with (0:
 * the same). What the model is stays as it is: it is saved with its own. GR_ERR_CONFIG when no mixer of it iterates. */
gr_status gr_model_iterate(gr_model *m, const gr_cfg_solver *solver);

/** [collective] A new Transformer with random weights: N(0, initializer_range) matrices, unit norms. `tokenizer` may be
 * "". */
gr_status gr_model_create(gr_model **m, const gr_comm *c, const gr_ops *ops, const char *config, const char *tokenizer,
                          const char *train_only, uint64_t seed);
void      gr_model_close(gr_model **m);

/** Called after each block's mixer: x [N, hid] its input (normed), y [N, hid] its output before the residual; both live
 * until the next reset or the end of the block, whichever the arena says: use them at once. */
typedef void (*gr_tap)(void *user, int layer, gr_tensor x, gr_tensor y);

/** [local] GR_ERR_NOMEM, logged, when activations do not fit: nothing was computed from memory that is not there.
 * h [N, hid] = normed hidden states of ids I32 [N], valid until gr_model_reset. keep: tapes for backward. tap may be
 * NULL. */
gr_status gr_model_forward(gr_model *m, gr_tensor ids, const gr_seq *seq, bool keep, gr_tap tap, void *user,
                           gr_tensor *h);

/** [local] dw += for every trainable parameter below the head, given dh (overwritten). After a forward with keep. */
gr_status gr_model_backward(gr_model *m, gr_tensor ids, const gr_seq *seq, gr_tensor dh);

/* [local] One block's mixer alone (alignment). rope_cs is the table of this batch (kernels/backend.h). tape and dx as
 * in kernels/mixer.h. */
void gr_model_mixer_forward(gr_model *m, int layer, const gr_seq *seq, gr_tensor rope_cs, gr_tensor y, gr_tensor x,
                            gr_tape *tape);
void gr_model_mixer_backward(gr_model *m, int layer, const gr_seq *seq, gr_tensor rope_cs, gr_tensor dx, gr_tensor dy,
                             gr_tensor x, const gr_tape *tape);

/** [local] GR_ERR_NOMEM when activations of this micro-batch did not fit (logged when it happened). */
gr_status gr_model_memory(const gr_model *m);

/** [local] Forget tapes and temporaries of the micro-batch. */
gr_status gr_model_reset(gr_model *m);

/** [collective] Write a whole model: its parameters as fp32, and, for tensors it did not load (GR_NEW_MIXERS), those of
 * the weights file it came from, unchanged. */
gr_status gr_model_save(gr_model *m, const gr_comm *c, const char *path, const gr_provenance *by);

GR_C_END
#endif
