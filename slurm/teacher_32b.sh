#!/bin/bash
# Each rank holds 131 GB of weights and the activations of a micro-batch: one to a node.
#SBATCH --job-name=teacher_32b --nodes=32 --time=24:00:00 --exclusive --mem=0 --ntasks-per-node=1
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" && run_stage teacher "${GRAFT_CONFIG:-$home/configs/qwen3_32b/teacher.yaml}" "$@"
