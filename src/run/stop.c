#include "run/room.h"
#include <errno.h>
#include <signal.h>
#include <string.h>

/* A handler has no argument to tell it where to write; this is all it may do. */
static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

gr_status gr_stop_catch(bool stops)
{
    static const struct {
        int number, flags;
        void (*handler)(int);
    } caught[] = {{SIGPIPE, SA_RESTART, SIG_IGN},   /* a reader of our output that left is a write error    */
                  {SIGTERM, SA_RESTART, on_signal}, /* the batch system, or a person                        */
                  {SIGUSR1, SA_RESTART, on_signal}, /* the time limit is near (slurm/: --signal=B:USR1@300) */
                  {SIGINT, SA_RESTART | SA_RESETHAND, on_signal}}; /* Ctrl-C; the second one is meant       */
    const size_t     n = stops ? sizeof caught / sizeof caught[0] : 1;
    gr_status        st = GR_OK;
    struct sigaction sa;

    for (size_t i = 0; i < n; i++) {
        memset(&sa, 0, sizeof sa);
        sigemptyset(&sa.sa_mask);
        sa.sa_handler = caught[i].handler;
        sa.sa_flags = caught[i].flags;
        GR_CHECK(!sigaction(caught[i].number, &sa, NULL), GR_ERR_IO, "sigaction: %s", strerror(errno));
    }
out:
    return st;
}

int gr_stop_requested(void)
{
    return stop;
}
