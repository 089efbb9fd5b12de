#!/bin/bash
# Each rank holds 136 GB (16 bytes for each of 8.5 G parameters) and the activations of a micro-batch.
#SBATCH --job-name=distill_8b --nodes=16 --time=24:00:00 --exclusive --mem=0
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" && run_stage distill "${GRAFT_CONFIG:-$home/configs/qwen3_8b/distill.yaml}" "$@"
