/** @file expand.h  The members of a sweep: candidates times seeds.  [local]
 *
 * A candidate is a type at a ratio, gdn_0.75 with the pattern uniform(attn:1,gdn:3), or one of sweep.patterns under its
 * own name. With seed 2 it is the member gdn_0.75_s2. Ratios are named as they are written; 2/3 is gdn_2of3.
 */
#ifndef GR_SWEEP_EXPAND_H
#define GR_SWEEP_EXPAND_H
#include "config/config.h"
#include "util/status.h"

GR_C_BEGIN

enum { GR_MEMBER_NAME = 64 };

typedef struct gr_member {
    char       name[GR_MEMBER_NAME];
    gr_strings keys; /**< "align:train.seed=2", ...: each with the stage that it is for; of equal ones the last wins */
} gr_member;

typedef struct gr_members {
    gr_member *member;
    int64_t    n;
} gr_members;

/** GR_ERR_CONFIG: no candidates; unknown type; a ratio that is no part of a whole; a name twice; two members that are
 * the same; a key that no stage has. Values are not looked at: check.h. */
gr_status gr_members_expand(gr_members *all, const gr_cfg_sweep *cfg);
void      gr_members_close(gr_members *all);

GR_C_END
#endif
