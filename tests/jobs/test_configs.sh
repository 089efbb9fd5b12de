#!/usr/bin/env bash
# Every configuration that is shipped is one that its program takes; every model of slurm/ has its scripts and configurations; what
# pipeline.sh and sweep.sh would submit, and what they refuse.
#TEST np: 1
#TEST timeout: 240
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$top"

# The program of a file: its name up to the first _. A base has none, and is read with those that inherit from it.
program_of() # CONFIG
{
    local name=${1##*/}
    name=${name%.yaml}
    case $1 in configs/sweeps/*) name=sweep ;; esac
    case $name in
    base) ;;
    pretrain) echo extend ;;
    *) echo "${name%%_*}" ;;
    esac
}

accepted=0
for config in configs/*/*.yaml; do
    program=$(program_of "$config")
    [ -n "$program" ] || continue
    [ -x "$bin/graft-$program" ] || { echo "$config: no graft-$program"; exit 1; }
    given=(run.out="$dir/out") # scripts/demo.sh gives it on the command line, and the model that is to be evaluated
    case $config in configs/demo/evaluate.yaml | configs/smollm2/evaluate*.yaml) given+=(model.weights="$dir") ;; esac
    "$bin/graft-$program" "$config" "${given[@]}" --print-config >"$dir/resolved"
    accepted=$((accepted + 1))
done
echo "$accepted configurations"
[ $accepted -ge 30 ]

# A cluster's configurations say where their output goes, no two the same place.
for model in 8b 32b; do
    for config in configs/qwen3_$model/*.yaml; do
        program=$(program_of "$config")
        [ -n "$program" ] || continue
        "$bin/graft-$program" "$config" --print-config | sed -n 's/^  out: //p'
        grep -q "run_stage $program " "slurm/${program}_$model.sh"
        grep -q "configs/qwen3_$model/$program.yaml" "slurm/${program}_$model.sh"
        [ -x "slurm/${program}_$model.sh" ]
    done >"$dir/outs"
    [ "$(wc -l <"$dir/outs")" -eq 11 ]
    [ -z "$(sort "$dir/outs" | uniq -d)" ]
    slurm/pipeline.sh $model --dry-run >"$dir/lines"
    [ "$(grep -c "^GRAFT_CONFIG=.*sbatch .*slurm/[a-z]*_$model.sh$" "$dir/lines")" -eq 11 ]
    [ "$(grep -c -- --dependency=afterok:JOB-OF- "$dir/lines")" -eq 10 ]
done
[ "$(slurm/pipeline.sh 8b --dry-run --from convert --to distill | wc -l)" -eq 3 ]

refused() # MESSAGE COMMAND...: exit code 2, and says why
{
    local message=$1 rc=0
    shift
    "$@" >"$dir/log" 2>&1 || rc=$?
    [ $rc -eq 2 ] && grep -q -- "$message" "$dir/log" || { echo "$*: exit $rc, not 2 with: $message"; cat "$dir/log"; exit 1; }
}

refused 'no stages from export to import' slurm/pipeline.sh 8b --dry-run --from export --to import
refused 'unknown model 9b' slurm/pipeline.sh 9b --dry-run --configs configs/qwen3_8b
refused 'usage\|MODEL' slurm/pipeline.sh
refused 'sbatch it' env -u SLURM_JOB_ID bash slurm/align_32b.sh

sweep() # TABLE OPTION...: its lines on stdin
{
    cat >"$dir/$1.tsv"
    (cd "$dir" && "$top/slurm/sweep.sh" "$1.tsv" --dry-run "${@:2}") # as a shell would need it: , becomes \\,
}

printf 'a\tconvert:convert.seed=1\n# remark\n\nb\talign:optim.lr=1e-4 align:train.steps=5\n' >"$dir/two"
sweep two <"$dir/two" >"$dir/lines"
grep -q -- '--array=1.,2%4 ' "$dir/lines"
[ ! -e "$dir/runs" ] # a dry run leaves nothing
mkdir -p "$dir/runs/sweeps/two/a" && touch "$dir/runs/sweeps/two/a/DONE"
printf '#stages: x\n' >"$dir/runs/sweeps/two/members.tsv"
refused 'from another table' sweep two <"$dir/two"
rm "$dir/runs/sweeps/two/members.tsv"
sweep two <"$dir/two" --throttle 9 >"$dir/lines"
grep -q -- '--array=2%9 ' "$dir/lines"
refused 'appears twice' sweep twice <<<$'a\tx.y=1\na\tx.y=2'
refused 'not a name' sweep names <<<$'../a\tx.y=1'
refused 'not a section.key=value' sweep keys <<<$'a\tx=1'
refused 'no members' sweep none <<<'# nothing'
(cd "$dir" && "$top/slurm/sweep.sh" "$top/configs/sweeps/qwen3_8b_pattern.tsv" --dry-run) >"$dir/lines"
grep -q -- '--array=1.,2.,3.,4.,5.,6%4 ' "$dir/lines"
