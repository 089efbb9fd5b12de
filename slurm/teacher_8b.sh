#!/bin/bash
# The teacher's predictions, once. Each rank holds 33 GB of weights and the activations of a micro-batch.
#SBATCH --job-name=teacher_8b --nodes=16 --time=24:00:00 --exclusive --mem=0
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" && run_stage teacher "${GRAFT_CONFIG:-$home/configs/qwen3_8b/teacher.yaml}" "$@"
