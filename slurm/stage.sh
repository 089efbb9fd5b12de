#!/bin/bash
# One stage of the pipeline as a Slurm job:
#
#     mkdir -p logs
#     sbatch --nodes=1 --ntasks-per-node=8 --cpus-per-task=6 --time=4:00:00 slurm/stage.sh align configs/mine/align.yaml [section.key=value ...]
#
# Near its time limit, and when it is preempted, the stage saves a checkpoint and leaves with 85: the job puts itself back into
# the queue and goes on from there. It gives up after MAX_RESTARTS (20) starts, at once after bad input (2), and holds the job for
# a human when no checkpoint can be written (86). A stage that is complete has nothing to do, so resubmitting is safe.
# What a site needs loaded (modules, an account) goes into slurm/site.sh, which is not tracked; slurm/site.example.sh shows it.
#SBATCH --job-name=graft
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=logs/%x.%j.log
set -u

home=${SLURM_SUBMIT_DIR:-.}
if [ -f "$home/slurm/site.sh" ]; then . "$home/slurm/site.sh"; fi
stage=${1:?usage: sbatch slurm/stage.sh STAGE CONFIG.yaml [section.key=value ...]}
shift
starts=${SLURM_RESTART_COUNT:-0} most=${MAX_RESTARTS:-20} pid=

say() { printf '%(%FT%T)T start %d: %s\n' -1 "$starts" "$*"; }

# Never leave before Slurm has taken the job back: a script that exits inside the grace time has failed, not been requeued.
requeue()
{
    if [ "$starts" -ge "$most" ]; then
        say "$1; giving up after $starts restarts"
        exit 1
    fi
    say "$1; back into the queue"
    scontrol requeue "${SLURM_JOB_ID:?}" && { sleep 600 & wait $!; }
    exit 1
}

# Ranks take USR1 as "save and stop". The handler must outlive the step: TERM comes again after the requeue.
stop() { [ -z "$pid" ] || kill -USR1 "$pid" 2>/dev/null; }
trap stop USR1 TERM

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} HDF5_USE_FILE_LOCKING=FALSE
srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task="$OMP_NUM_THREADS" "$home/${GR_BUILD:-build}/bin/graft-$stage" "$@" &
pid=$!
while :; do # wait returns early when a signal came: ask again for the real code
    wait "$pid"
    rc=$?
    kill -0 "$pid" 2>/dev/null || break
done
say "graft-$stage ended with $rc"
case $rc in
0 | 2) exit $rc ;;
75) requeue "another run holds the lock" ;;
85) requeue "stopped at a checkpoint" ;;
86) scontrol requeuehold "${SLURM_JOB_ID:?}"; exit $rc ;;
*) requeue "crashed" ;;
esac
