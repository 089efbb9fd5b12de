#!/bin/bash
# To HuggingFace files: one pass over the weights, bound by storage.
#SBATCH --job-name=export_32b --nodes=1 --time=4:00:00 --exclusive --mem=0
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" && run_stage export "${GRAFT_CONFIG:-$home/configs/qwen3_32b/export.yaml}" "$@"
