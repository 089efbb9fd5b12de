#!/bin/bash
# Any stage with any configuration as a Slurm job:
#
#     sbatch --nodes=2 --time=4:00:00 slurm/stage.sh align configs/mine/align.yaml [section.key=value ...]
#
# slurm/STAGE_MODEL.sh are the same with resources and a configuration for a model. How a job goes on after a time limit, a
# preemption or a crash: slurm/job.sh. What a site needs: slurm/site.example.sh.
#SBATCH --job-name=graft --exclusive --mem=0
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
. "${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/job.sh" && run_stage "${@:?usage: sbatch slurm/stage.sh STAGE CONFIG.yaml [section.key=value ...]}"
