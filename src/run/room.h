/** @file room.h  What the files of this room share, and no other room includes.  [local] */
#ifndef GR_RUN_ROOM_H
#define GR_RUN_ROOM_H
#include "run/run.h"

/** Ignore SIGPIPE; for programs that can stop and go on later (`stops`), catch SIGTERM, SIGUSR1 and SIGINT. The others
 * end by the signal: what they write appears by one rename, so nothing half-made is left. Called before MPI_Init, which
 * may ask what is caught, and again after it, because some launchers change the handlers. */
gr_status gr_stop_catch(bool stops);

/** run->progress, on rank 0 when stderr is a terminal or GR_PROGRESS=1; NULL elsewhere. */
gr_status gr_progress_open(gr_run *run);
void      gr_progress_close(gr_run *run);

#endif
