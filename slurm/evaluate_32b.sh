#!/bin/bash
# Each rank holds hybrid and teacher, 268 GB: one to a node.
#SBATCH --job-name=evaluate_32b --nodes=8 --time=8:00:00 --exclusive --mem=0 --ntasks-per-node=1
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" && run_stage evaluate "${GRAFT_CONFIG:-$home/configs/qwen3_32b/evaluate.yaml}" "$@"
