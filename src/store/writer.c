#include "store/writer.h"
#include <signal.h>
#include <time.h>

static void *run(void *user)
{
    gr_writer *w = user;

    w->st = w->job(w->user);
    atomic_store(&w->running, false);
    return NULL;
}

/* Signals are for the thread that trains: it looks at the stop flag, and its calls expect EINTR. */
static bool start_thread(gr_writer *w)
{
    sigset_t all, before;
    bool     started;

    sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &before)) return false;
    started = !pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

void gr_writer_start(gr_writer *w, gr_job job, void *user, bool beside)
{
    w->job = job;
    w->user = user;
    w->st = GR_OK;
    atomic_store(&w->running, true);
    w->threaded = beside && start_thread(w);
    if (!w->threaded) run(w);
}

bool gr_writer_done(const gr_writer *w)
{
    return !atomic_load(&w->running);
}

gr_status gr_writer_wait(gr_writer *w)
{
    gr_status st;

    if (w->threaded) pthread_join(w->thread, NULL);
    st = w->st;
    w->threaded = false;
    w->st = GR_OK;
    return st;
}

bool gr_writer_leave(gr_writer *w, double seconds)
{
    const struct timespec pause = {0, 5000000};

    for (; seconds > 0 && !gr_writer_done(w); seconds -= 0.005) nanosleep(&pause, NULL);
    if (gr_writer_done(w)) {
        gr_writer_wait(w);
        return true;
    }
    pthread_detach(w->thread);
    w->threaded = false;
    return false;
}
