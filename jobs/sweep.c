/**
 * sweep -- the members of a sweep over layer types, as a table for slurm/sweep.sh.
 *
 *   reads    sweep.configs    configurations of the stages
 *   writes   the table on stdout; nothing else. run.out is the directory that the sweep will have
 *   exits    0 done, 2 a member could not run: unknown type, key or stage, a value out of range, a name twice
 *
 *   build/bin/graft-sweep configs/sweeps/mixers_8b.yaml            (slurm/sweep_mixers.sh goes on from there)
 */
#include "sweep/sweep.h"

int main(int argc, char **argv)
{
    gr_run   *run = NULL;
    gr_status st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "sweep"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_sweep_write(run));
out:
    return gr_run_close(&run, st);
}
