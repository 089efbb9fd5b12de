#!/bin/bash
# One member of a sweep, submitted by slurm/sweep.sh as an element of an array: all its stages, one after another.
#SBATCH --job-name=sweep --nodes=8 --time=24:00:00 --exclusive --mem=0
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=logs/%x.%A_%a.log
home=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}} # Slurm runs a copy of this file: its own place says nothing
. "$home/slurm/job.sh" || exit 2
sweep=${1:?usage: slurm/sweep.sh TABLE}
# shellcheck disable=SC2034 # read by job.sh
again=(sweep_member.sh "$sweep")

# Of the products of stages before this one, those that it reads: "section.key=path ..."
inputs_of() # STAGE
{
    local weights=model.weights
    [ "$1" != extend ] || weights=start.weights
    [ -z "$model" ] || [ "$1" = teacher ] || inputs+=("$weights=$model")
    [ -z "$logits" ] || [ "$1" != distill ] || inputs+=("distill.logits=$logits")
}

configs=$(sed -n 's/^#configs: //p' "$sweep/members.tsv")
read -ra stages <<<"$(sed -n 's/^#stages: //p' "$sweep/members.tsv")"
IFS=$'\t' read -r name keys <<<"$(grep -v '^#' "$sweep/members.tsv" | sed -n "${SLURM_ARRAY_TASK_ID}p")"
read -ra keys <<<"$keys"
say "member $name of $sweep: ${keys[*]}"
model="" logits=""
for s in "${stages[@]}"; do
    inputs=()
    inputs_of "$s"
    for key in "${keys[@]}"; do
        [[ $key =~ ^[a-z]+: ]] || key=$s:$key # for every stage
        [[ $key != "$s:"* ]] || inputs+=("${key#*:}")
    done
    run_stage "$s" "$configs/$s.yaml" "run.out=$sweep/$name/$s" "${inputs[@]}"
    case $s in
    import | convert | align | distill | extend) model=$sweep/$name/$s ;;
    teacher) logits=$sweep/$name/$s ;;
    esac
done
touch "$sweep/$name/DONE" # a hint to sweep.sh, which would otherwise submit a job that finds nothing to do
