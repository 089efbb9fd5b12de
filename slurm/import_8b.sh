#!/bin/bash
# From HuggingFace files to weights.h5: streams tensors, bound by storage.
#SBATCH --job-name=import_8b --nodes=1 --time=1:00:00 --exclusive --mem=0
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" && run_stage import "${GRAFT_CONFIG:-$home/configs/qwen3_8b/import.yaml}" "$@"
