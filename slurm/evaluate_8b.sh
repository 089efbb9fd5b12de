#!/bin/bash
# Each rank holds hybrid and teacher, 67 GB.
#SBATCH --job-name=evaluate_8b --nodes=4 --time=4:00:00 --exclusive --mem=0
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" && run_stage evaluate "${GRAFT_CONFIG:-$home/configs/qwen3_8b/evaluate.yaml}" "$@"
