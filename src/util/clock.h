/** @file clock.h  What time it is.  [local]
 */
#ifndef GR_UTIL_CLOCK_H
#define GR_UTIL_CLOCK_H
#include "util/status.h"

GR_C_BEGIN

/** Seconds on a monotonic clock. */
double gr_now(void);

/** UTC as 2026-01-31T12:00:00Z, in a static buffer per thread. */
const char *gr_utc(void);

GR_C_END
#endif
