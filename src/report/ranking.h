/** @file ranking.h  The members of a sweep: how far they are, and how their candidates rank.  [local]
 *
 * A candidate is what members that differ only in seeds have in common: the same keys (members.tsv of slurm/sweep.sh),
 * but for those called `seed`. It is ranked by the mean of the held-out perplexity over the seeds that are done, and
 * compared with the best one seed by seed.
 *
 *     DIR/members.tsv                   "#stages: ..." and lines "name<TAB>stage:section.key=value ..."
 *     DIR/NAME/DONE                     all stages are complete; so it is when each has its record
 *     DIR/NAME/STAGE/graft.json         this record
 *     DIR/NAME/STAGE/metrics.jsonl      of a training stage, also while it runs
 *     DIR/NAME/evaluate/results.json
 */
#ifndef GR_REPORT_RANKING_H
#define GR_REPORT_RANKING_H
#include "report/curve.h"
#include "report/facts.h"
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

enum { GR_STAGES = 16, GR_CAUSE = 512 };

typedef struct gr_entrant {
    const char *name, *keys;      /**< of members.tsv                                                      */
    int64_t     candidate;        /**< its index                                                           */
    bool        begun, done;      /**< there is something of it; all of it                                 */
    char        state[64];        /**< "done", "align, step 40", "distill is next", "not begun", "damaged" */
    char        cause[GR_CAUSE];  /**< why it is damaged; else ""                                          */
    double      perplexity, kl;   /**< NaN: not measured                                                   */
    double      behind;           /**< nats: log-perplexity above that of the best candidate with this seed  */
    double      tokens;           /**< trained on, in all stages                                           */
    double      seconds;          /**< in steps, and evaluating                                            */
    gr_curve    curve[GR_STAGES]; /**< by stage; n = 0 where there is none                                */
} gr_entrant;

/** Over the seeds of a candidate that are done. */
typedef struct gr_spread {
    int64_t n;
    double  mean, least, most; /**< NaN when n is 0                                                          */
    double  sd;                /**< sample standard deviation (divided by n - 1); NaN when n is less than 2   */
} gr_spread;

typedef struct gr_candidate {
    char      name[GR_MAX_NAME]; /**< of its first member, without "_sSEED"       */
    int64_t   n, n_done;         /**< members                                     */
    gr_spread perplexity, kl, behind, tokens, seconds;
    int64_t   rank; /**< from 1; 0: no perplexity yet                */
} gr_candidate;

typedef struct gr_ranking {
    char         *text; /* members.tsv, cut up */
    const char   *stage[GR_STAGES];
    int           n_stage;
    gr_entrant   *entrant;   /**< [n_entrant], in the order of the table  */
    gr_candidate *candidate; /**< [n_candidate], best first               */
    int64_t       n_entrant, n_candidate, n_done, n_begun;
} gr_ranking;

/** A member that cannot be read is damaged, says why, and counts as one that is not done. GR_ERR_INPUT: there is no
 * table of members, or it is none. */
gr_status gr_ranking_read(gr_ranking *r, const char *dir);
void      gr_ranking_close(gr_ranking *r);

GR_C_END
#endif
