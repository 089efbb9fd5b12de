/** @file room.h  What the files of this room share, and no other room includes: the inside of a
 * gr_comm, and the check around every MPI call.
 */
#ifndef GR_COMM_ROOM_H
#define GR_COMM_ROOM_H
#include "comm/comm.h"
#include <mpi.h>

struct gr_comm {
    MPI_Comm mpi; /* ours: duplicated or split, never MPI_COMM_WORLD itself */
    int      rank, size;
};

/** gr_die when an MPI call fails. */
void gr_mpi_check(int code, const char *call, const char *file, int line);
#define GR_MPI(call) gr_mpi_check((call), #call, __FILE__, __LINE__)

#endif
