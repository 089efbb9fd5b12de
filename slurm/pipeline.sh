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

GRAFT_HOME=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export GRAFT_HOME
stages=(import tokenize tokenize_heldout tokenize_lessons teacher convert align distill extend evaluate export) # a name up to _ is the program

die() { echo "pipeline.sh: $*" >&2; exit 2; }

usage() { sed -n '/^#  *slurm/,/^#   --dry-run/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

read_arguments()
{
    model="" from=${stages[0]} to=${stages[-1]} configs="" dry=""
    while [ $# -gt 0 ]; do
        case $1 in
        --from | --to | --configs)
            [ $# -ge 2 ] || die "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift 2 ;;
        --dry-run) dry=yes; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) die "unknown option $1" ;;
        *)
            [ -z "$model" ] || die "one model at a time: $model, $1"
            model=$1
            shift ;;
        esac
    done
    [ -n "$model" ] || { usage >&2; exit 2; }
    configs=${configs:-$GRAFT_HOME/configs/qwen3_$model}
}

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
    for s in "${chosen[@]}"; do
        [ -f "$configs/$s.yaml" ] || die "no $configs/$s.yaml"
        [ -f "$GRAFT_HOME/slurm/${s%%_*}_$model.sh" ] || die "no slurm/${s%%_*}_$model.sh: unknown model $model"
    done
}

submit() # STAGE AFTER: prints the job's id
{
    local line=(sbatch --parsable --kill-on-invalid-dep=yes --job-name="$1_$model")
    [ -z "$2" ] || line+=(--dependency="afterok:$2")
    line+=("${GRAFT_SBATCH[@]}" "$GRAFT_HOME/slurm/${1%%_*}_$model.sh")
    if [ -n "$dry" ]; then
        { printf 'GRAFT_CONFIG=%q' "$configs/$1.yaml"; printf ' %q' "${line[@]}"; echo; } >&3
        echo "JOB-OF-$1"
    else
        GRAFT_CONFIG=$configs/$1.yaml "${line[@]}" | cut -d';' -f1 # federations add ;cluster
    fi
}

read_arguments "$@"
choose
GRAFT_SBATCH=()
site=${GRAFT_SITE:-$GRAFT_HOME/slurm/site.sh}
# shellcheck source=/dev/null
[ ! -f "$site" ] || . "$site"
[ -n "$dry" ] || mkdir -p logs # Slurm fails a job without a word when the directory of its log is missing
exec 3>&1 # submit's own output is the job's id
before=""
for s in "${chosen[@]}"; do
    before=$(submit "$s" "$before")
    [ -n "$dry" ] || echo "$s $before"
done
