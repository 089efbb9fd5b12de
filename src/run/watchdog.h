/** @file watchdog.h  A rank that hangs says where, and ends.  [local]
 *
 * A rank that dies is noticed by the launcher; one that hangs, in a collective that another rank never enters or in a
 * file system that does not answer, is noticed by nobody. So every rank has a thread that counts seconds without a beat
 * (util/beat.h). At the limit it writes one line to stderr, where the rank stands and what each thread of the process
 * waits for, leaves the other ranks a moment to say the same, and ends the process with exit code 124; the launcher
 * ends the rest. The thread calls no MPI and no HDF5, takes no lock, allocates nothing, and blocks all signals.
 *
 * Seconds are ticks of this very thread. While the process is stopped (scontrol suspend, a debugger, a laptop's lid) it
 * does not tick, so a suspended job goes on afterwards as if nothing had been.
 */
#ifndef GR_RUN_WATCHDOG_H
#define GR_RUN_WATCHDOG_H
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN

enum { GR_EXIT_HUNG = 124 };

/** Watch the calling thread, from now until the process ends, so that leaving is watched, too. Once per process.
 * `program` names it in the report, and is borrowed. limit_s: seconds without a beat; 0 for any number. */
gr_status gr_watchdog_start(const char *program, int64_t limit_s);

/** What is known later: this process's rank, and the limit of the configuration. */
void gr_watchdog_set(int rank, int64_t limit_s);

GR_C_END
#endif
