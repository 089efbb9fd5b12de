/** @file params.h  The parameters of a model: a named list over flat units.
 *
 * All parameters of one block that are trainable form one unit, all frozen ones another: a unit is one allocation, so
 * that it can be reduced, sharded and checkpointed as a whole. Values are F32; gradients and optimiser state exist for
 * trainable units only. Everything is owned by the gr_params.
 *
 * Order of calls: open, add..., train_only, allocate, then fill (init, load) and use.
 */
#ifndef GR_TENSOR_PARAMS_H
#define GR_TENSOR_PARAMS_H
#include "kernels/backend.h"
#include "kernels/mixer.h"

GR_C_BEGIN

enum { GR_NAME_MAX = 160 };

typedef struct gr_param {
    char      name[GR_NAME_MAX]; /**< canonical: HuggingFace's, "model.layers.3.gdn.q_proj.weight" */
    int       rank;
    int64_t   dim[3];
    gr_init   init;
    bool      decay; /**< weight decay applies                                         */
    bool      trainable;
    int       block; /**< layer it belongs to; -1: none (embedding, final norm, head)  */
    gr_tensor value; /**< F32, backend memory                                          */
    gr_tensor grad;  /**< F32; none when frozen                                        */
    gr_tensor m, v;  /**< AdamW moments, F32; none when frozen or not training         */
} gr_param;

/** One flat allocation: the trainable or the frozen parameters of a block. */
typedef struct gr_unit {
    int       block;
    bool      trainable;
    int64_t   n;                 /**< elements, padding between parameters (to 16) included        */
    gr_tensor value, grad, m, v; /**< F32 [n]                                                      */
} gr_unit;

typedef struct gr_params {
    const gr_ops *ops;
    gr_param     *p;
    int64_t       n;
    gr_unit      *unit;
    int64_t       n_unit;
} gr_params;

gr_status gr_params_open(gr_params **ps, const gr_ops *ops);
void      gr_params_close(gr_params **ps);

/** [local] Append; *index is its place in ps->p for ever. Trainable until gr_params_train_only says otherwise. */
gr_status gr_params_add(gr_params *ps, const gr_param_spec *spec, const char *prefix, int block, int64_t *index);

/** [local] Freeze every parameter whose name matches none of the comma-separated globs (fnmatch). GR_ERR_CONFIG when
 * nothing stays trainable, unless globs is "". */
gr_status gr_params_train_only(gr_params *ps, const char *globs);

/** [local] Allocate values, and with `training` gradients and moments of the trainable units; zeroed. */
gr_status gr_params_allocate(gr_params *ps, bool training);

/** What initial values are drawn from. */
typedef struct gr_init_law {
    double std;            /**< GR_INIT_NORMAL: N(0, std)                                             */
    double a_min, a_max;   /**< GR_INIT_A_LOG: log U(a_min, a_max), A at least 1e-3                   */
    double dt_min, dt_max; /**< GR_INIT_DT_BIAS: inverse softplus of log-uniform [dt_min, dt_max]     */
} gr_init_law;

/** [local] Fill parameter i as its gr_init says: a pure function of (seed, name, law). */
gr_status gr_params_init(gr_params *ps, int64_t i, uint64_t seed, const gr_init_law *law);

/** [host] The same into host memory, for those who build a model without owning one (convert). */
void gr_init_fill(float *x, const gr_param_spec *spec, const char *name, uint64_t seed, const gr_init_law *law);

/** Index of a name, or -1. */
int64_t gr_params_find(const gr_params *ps, const char *name);

/** Trainable elements, padding excluded. */
int64_t gr_params_trainable(const gr_params *ps);
int64_t gr_params_total(const gr_params *ps);

void gr_params_zero_grad(gr_params *ps);

GR_C_END
#endif
