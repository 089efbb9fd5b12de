#!/bin/bash
# Each rank holds 56 GB (1.8 G trained parameters, 6.7 G frozen ones) and 10 MB of activations a token: one to a node.
#SBATCH --job-name=extend_8b --nodes=16 --time=24:00:00 --exclusive --mem=0 --ntasks-per-node=1
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" && run_stage extend "${GRAFT_CONFIG:-$home/configs/qwen3_8b/extend.yaml}" "$@"
