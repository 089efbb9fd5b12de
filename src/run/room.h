/** @file room.h  What the files of this room share, and no other room includes.  [local] */
#ifndef GR_RUN_ROOM_H
#define GR_RUN_ROOM_H
#include "run/run.h"

/** Catch SIGTERM, SIGUSR1 and SIGINT, ignore SIGPIPE. Called before MPI_Init, which may ask what is caught, and again after it,
 * because some launchers change the handlers. */
gr_status gr_stop_catch(void);

/** run->progress, on rank 0 when stderr is a terminal or GR_PROGRESS=1; NULL elsewhere. */
gr_status gr_progress_open(gr_run *run);
void      gr_progress_close(gr_run *run);

#endif
