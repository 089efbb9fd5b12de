#!/bin/bash
# Text to tokens: any number of nodes, the same bytes.
#SBATCH --job-name=tokenize_8b --nodes=4 --time=4:00:00 --exclusive --mem=0
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%j.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" && run_stage tokenize "${GRAFT_CONFIG:-$home/configs/qwen3_8b/tokenize.yaml}" "$@"
