/** @file check.h  Could every member of a sweep run?  [local] */
#ifndef GR_SWEEP_CHECK_H
#define GR_SWEEP_CHECK_H
#include "config/config.h"
#include "sweep/expand.h"
#include "util/status.h"

GR_C_BEGIN

/** GR_ERR_CONFIG: a stage that is no program, twice there, or does not fit into a table; no stage converts. */
gr_status gr_stages_check(const gr_cfg_sweep *cfg);

/** Resolve every stage of every member, and the shared stages, as their programs will (slurm/sweep_member.sh): with the
 * stage's configuration, the product of the stage before, and the member's keys. Where the teacher is shared and the
 * members distill, they must read what it writes.
 *
 * GR_ERR_CONFIG | GR_ERR_INPUT names member and stage. */
gr_status gr_members_check(const gr_members *all, const gr_config *cfg);

GR_C_END
#endif
