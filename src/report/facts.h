/** @file facts.h  Everything a report says, gathered from the stages' outputs.  [local] */
#ifndef GR_REPORT_FACTS_H
#define GR_REPORT_FACTS_H
#include "config/config.h"
#include "report/curve.h"
#include "report/host.h"
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN

/** One evaluated model. */
typedef struct gr_judged {
    char    name[GR_MAX_NAME];  /**< "aligned"                                        */
    char    stage[GR_MAX_NAME]; /**< "align", which made it; "" unknown               */
    int64_t context;            /**< measured apart at this length; 0: in the main table */
    double  perplexity;
    double  kl;      /**< to the teacher, nats; NaN where not measured     */
    int64_t tokens;  /**< that were scored                                 */
    double  seconds; /**< that it took; 0: not said                       */
} gr_judged;

typedef struct gr_spent {
    char   stage[GR_MAX_NAME];
    double seconds;
} gr_spent;

typedef struct gr_facts {
    gr_curve  *curve; /**< [n_curve] training runs, in order  */
    int64_t    n_curve;
    gr_judged *model; /**< [n_model] evaluations, in order    */
    int64_t    n_model;
    gr_spent  *spent; /**< [n_spent] stages, in order         */
    int64_t    n_spent;
    gr_host    host;
    int64_t    ranks;
} gr_facts;

/** GR_ERR_CONFIG a list entry is not understood | GR_ERR_INPUT a file is missing, torn or does not hold what it should.
 */
gr_status gr_facts_read(gr_facts *f, const gr_cfg_report *cfg);
void      gr_facts_close(gr_facts *f);

/** The measured members of *m from DIR/results.json; names are the caller's. GR_ERR_INPUT. */
gr_status gr_judged_read(gr_judged *m, const char *dir);

/** Seconds of a stage, and tokens it trained on; NaN and -1 when there is no such stage. */
double  gr_facts_seconds(const gr_facts *f, const char *stage);
int64_t gr_facts_tokens(const gr_facts *f, const char *stage);

GR_C_END
#endif
