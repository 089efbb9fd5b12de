/**
 * verify -- are these files what they say they are?
 *
 *   reads    verify.paths     files, and directories with all that is below them: weights, token shards, predictions,
 *                             checkpoints, runs, results, exports
 *   writes   a line per file on stdout; verify.report, if asked for. Takes no lock, changes nothing
 *   exits    0 all sound, 2 something is damaged or missing, or there is nothing of Graft's; else failed
 *
 *   mpirun -n 8 build/bin/graft-verify runs/align runs/shards
 */
#include "verify/verify.h"

int main(int argc, char **argv)
{
    gr_run   *run = NULL;
    gr_status st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "verify"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_verify(run));
out:
    return gr_run_close(&run, st);
}
