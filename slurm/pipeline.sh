#!/usr/bin/env bash
# Submit the stages of a model as a chain, each after the success of the one before:
#
#     slurm/pipeline.sh MODEL [--from STAGE] [--to STAGE] [--configs DIR] [--dry-run]
#
#   MODEL       8b or 32b: scripts slurm/STAGE_MODEL.sh, configurations configs/qwen3_MODEL/STAGE.yaml
#   --from, --to   start at, stop after this stage (default: all)
#   --configs   take the configurations from here
#   --dry-run   print the sbatch lines
#
# Prints a line "stage job" for each. A stage that fails for good cancels what comes after it; mend the cause and submit again, at
# any time: stages that are complete have nothing to do, and one that still runs makes its twin wait. Account, partition and the
# like come from slurm/site.sh (slurm/site.example.sh).
set -euo pipefail

# shellcheck source=slurm/submit.sh
. "$(dirname "${BASH_SOURCE[0]}")/submit.sh"
stages=(import tokenize tokenize_heldout tokenize_lessons teacher convert align distill extend evaluate export) # a name up to _ is the program

usage() { sed -n '/^#  *slurm/,/^#   --dry-run/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

# The stages from $from to $to, as an array `chosen`
choose()
{
    local s state=before
    chosen=()
    for s in "${stages[@]}"; do
        [ "$s" != "$from" ] || state=inside
        [ $state != inside ] || chosen+=("$s")
        [ "$state $s" != "inside $to" ] || state=after
    done
    [ $state = after ] || die "no stages from $from to $to; there are: ${stages[*]}"
    for s in "${chosen[@]}"; do require_stage "$s"; done
}

argument=model options="from to configs"
model="" from=${stages[0]} to=${stages[-1]} configs=""
read_command_line "$@"
configs=${configs:-$GRAFT_HOME/configs/qwen3_$model}
choose
load_site
before=""
for s in "${chosen[@]}"; do
    before=$(submit_stage "$s" "$before")
    [ -n "$dry" ] || echo "$s $before"
done
