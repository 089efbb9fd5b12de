/** @file verify.h  Are these files what they say they are?
 *
 * Reads every Graft file below the given paths and says, one line per file, what it is and whether it is sound:
 * checksums, shapes, values, completeness, and what it was made from. Nothing is changed, no lock is taken. What is
 * looked at for each kind of file, and what cannot be seen: docs/verify.md.
 */
#ifndef GR_VERIFY_VERIFY_H
#define GR_VERIFY_VERIFY_H
#include "run/run.h"

GR_C_BEGIN
/** [collective] Verify run->cfg->verify.paths; rank 0 prints the report. GR_ERR_INPUT when a file is damaged or
 * missing, or when there is no Graft file at all. */
gr_status gr_verify(const gr_run *run);
GR_C_END
#endif
