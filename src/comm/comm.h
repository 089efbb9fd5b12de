/** @file comm.h  Communicators, and how all ranks leave by the same door.
 *
 * The only room that says MPI. MPI_ERRORS_RETURN is set on every communicator, so return codes
 * are real; an MPI call that fails ends the job (gr_die), because ranks can no longer agree.
 *
 * [collective] functions return the same status on every rank: they agree inside, so their callers
 * use plain GR_TRY. Rule: local work first, one gr_agree, then the collectives.
 */
#ifndef GR_COMM_COMM_H
#define GR_COMM_COMM_H
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

/** A group of ranks. NULL is a group too: this process alone, with or without MPI started. Every
 * function but init, finalize and split takes it, so one code serves one rank and many. */
typedef struct gr_comm gr_comm;

/** [collective] MPI_Init and the world communicator. Call once, first. Signal-safe set-up is run's. */
gr_status gr_comm_init(gr_comm **world, int *argc, char ***argv);

/** [collective] Barrier, MPI_Finalize; then the caller may only _exit. */
void gr_comm_finalize(gr_comm **world);

int gr_comm_rank(const gr_comm *c);
int gr_comm_size(const gr_comm *c);

/** [collective] Ranks of equal colour as a group of their own, in the same order. */
gr_status gr_comm_split(const gr_comm *parent, int colour, gr_comm **group);

/** [collective] Ranks of the same host as a group of their own. */
gr_status gr_comm_split_host(const gr_comm *parent, gr_comm **host);
void      gr_comm_close(gr_comm **c);

/** [collective] The worst status of all ranks; rank 0 logs which rank reported it. */
gr_status gr_agree(const gr_comm *c, gr_status local);

/* [collective] Reductions in place. The order of summation is fixed for a given rank count, so
 * results repeat bitwise. Large buffers go in pieces of 1 Mi elements: beyond that shared-memory reductions slow down.
 */
void gr_sum_f32(const gr_comm *c, float *x, int64_t n);
void gr_sum_f64(const gr_comm *c, double *x, int64_t n);
void gr_sum_i64(const gr_comm *c, int64_t *x, int64_t n);
void gr_max_i64(const gr_comm *c, int64_t *x, int64_t n);

/** [collective] Broadcast n bytes from `root`. */
void gr_bcast(const gr_comm *c, void *data, int64_t n, int root);

/** [collective] Concatenate the n bytes of every rank, in rank order, on all ranks:
 * all[rank * n ...]. */
void gr_allgather(const gr_comm *c, const void *mine, int64_t n, void *all);

/** [collective] Gather variable-length byte strings on rank 0 (counted memory, NULL elsewhere);
 * offset[r] .. offset[r + 1] is rank r's part. */
gr_status gr_gather_bytes(const gr_comm *c, const void *mine, int64_t n, char **all, int64_t **offset);

void gr_barrier(const gr_comm *c);

/** Last resort (MPI broken, device lost): log, then MPI_Abort with code 70. */
void gr_die(const char *file, int line, const char *fmt, ...) __attribute__((noreturn, format(printf, 3, 4)));
#define GR_DIE(...) gr_die(__FILE__, __LINE__, __VA_ARGS__)

/** First item and number of items of rank r when n items are dealt in order: sizes differ by at
 * most one. */
void gr_share(int64_t n, int rank, int size, int64_t *first, int64_t *count);

/** [local] GR_ERR_IO on purpose when the environment says GR_FAULT="site:rank" and this is that rank (tests of
 * the failure paths). */
gr_status gr_fault(const gr_comm *c, const char *site);

GR_C_END
#endif
