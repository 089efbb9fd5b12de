/** @file lock.h  One run at a time: an flock(2) on a file that says which run that is.  [local]
 *
 * The kernel lets go of it when the process ends, however it ends. The file stays: only its lock means anything.
 */
#ifndef GR_STORE_LOCK_H
#define GR_STORE_LOCK_H
#include "util/status.h"

GR_C_BEGIN

/** Take the lock on the file `path`, made if need be, in a directory that exists. Ten seconds of trying, then GR_LOCKED
 * with what the holder wrote. *lock holds it until it is closed; it must be -1 before. */
gr_status gr_lock_take(int *lock, const char *path);

/** Write into it who holds it: host, pid, time, and `note`, which may be empty. */
gr_status gr_lock_sign(int lock, const char *path, const char *note);

/** Let go; -1 is fine, and is what *lock becomes. */
void gr_lock_close(int *lock);

/** Let go, and remove the file: whoever waits for it sees that, and locks a new one. */
void gr_lock_remove(int *lock, const char *path);

GR_C_END
#endif
