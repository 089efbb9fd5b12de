/** @file sweep.h  From section `sweep` to the table of members that slurm/sweep.sh submits.
 *
 *     #out: runs/sweeps/mixers_8b            what slurm/sweep.sh takes for options that it is not given
 *     #model: 8b
 *     #shared: teacher
 *     #configs: configs/qwen3_8b
 *     #stages: convert align distill evaluate
 *     gdn_0.5_s1<TAB>convert:convert.pattern=uniform(attn:1,gdn:1) convert:convert.seed=1 align:train.seed=1 ...
 *
 * A member has each key with the one stage that it is for. Every stage of every member is resolved as its program would
 * do it, so that what a job would refuse is refused before there is one.
 */
#ifndef GR_SWEEP_SWEEP_H
#define GR_SWEEP_SWEEP_H
#include "run/run.h"
#include "util/status.h"

GR_C_BEGIN

/** [collective] The table on rank 0's stdout. GR_ERR_CONFIG | GR_ERR_INPUT a configuration is missing | GR_ERR_IO. */
gr_status gr_sweep_write(const gr_run *run);

GR_C_END
#endif
