#!/bin/bash
# Each rank holds 201 GB (131 frozen, 70 for 4.4 G trained parameters) and activations: one to a node.
#SBATCH --job-name=align_32b --nodes=32 --time=24:00:00 --exclusive --mem=0 --ntasks-per-node=1
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" && run_stage align "${GRAFT_CONFIG:-$home/configs/qwen3_32b/align.yaml}" "$@"
