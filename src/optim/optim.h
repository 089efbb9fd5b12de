/** @file optim.h  AdamW over a parameter list, the learning-rate schedule, gradient clipping.
 *
 * Source  Loshchilov, Hutter 2019, arXiv:1711.05101; formulas in docs/math.md 9.4.
 */
#ifndef GR_OPTIM_OPTIM_H
#define GR_OPTIM_OPTIM_H
#include "config/config.h"
#include "tensor/params.h"

GR_C_BEGIN

/** [local] Learning rate of step t (0-based) of `steps`. Pure. */
double gr_learning_rate(const gr_cfg_optim *optim, const gr_cfg_schedule *schedule, int64_t t, int64_t steps);

/** [local] Global L2 norm of all gradients times grad_scale. `sum` F64 [1] on the backend is overwritten. */
double gr_grad_norm(const gr_params *ps, gr_tensor sum, double grad_scale);

/** [local] One AdamW update, t counted from 0, after clipping to optim->clip. Gradients are those of a sum times
 * grad_scale. grad_norm is gr_grad_norm's result: equal on all ranks, so that all ranks clip alike. */
void gr_adamw_step(gr_params *ps, const gr_cfg_optim *optim, double lr, int64_t t, double grad_scale, double grad_norm);

GR_C_END
#endif
