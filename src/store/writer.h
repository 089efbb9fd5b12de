/** @file writer.h  One job beside the training: a thread that never calls MPI and takes no signals.  [local]
 *
 * At most one job at a time. The job must not touch anything else that its owner touches before gr_writer_done.
 */
#ifndef GR_STORE_WRITER_H
#define GR_STORE_WRITER_H
#include "util/status.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef gr_status (*gr_job)(void *user);

typedef struct gr_writer { /**< {0} is idle */
    gr_job      job;
    void       *user;
    pthread_t   thread;
    bool        threaded; /**< there is a thread to join                       */
    gr_status   st;       /**< of the job, once it is done                     */
    atomic_bool running;
} gr_writer;

/** Start a job; `beside` false, or no thread to be had: do it now. */
void gr_writer_start(gr_writer *w, gr_job job, void *user, bool beside);

/** True when nothing is under way. */
bool gr_writer_done(const gr_writer *w);

/** Wait for the job; its status, or GR_OK when there was none. */
gr_status gr_writer_wait(gr_writer *w);

/** Wait at most so long; false: the job still runs, and the thread is left to itself: the process must end without
 * touching what the job uses. */
bool gr_writer_leave(gr_writer *w, double seconds);

#endif
