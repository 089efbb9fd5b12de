#!/usr/bin/env bash
# The batch scripts of slurm/ on a real Slurm: the whole pipeline as a chain, and every way in which a job can be disturbed. Whatever
# happens to a stage, it ends unattended with the very weights of an undisturbed run.
#
# Disturbances hit a stage in the middle for sure, not by timing: its ranks are frozen with SIGSTOP while the stage is set upon.
#TEST np: 1
#TEST timeout: 600
#TEST lane: beside
# shellcheck disable=SC2154,SC2016,SC2034 # variables of lib.sh; text for eval; jobs by ${!name}
set -euo pipefail
# shellcheck source=tests/jobs/lib.sh
. "$(dirname "$0")/../jobs/lib.sh"
# shellcheck source=tests/slurm/cluster.sh
. "$here/../slurm/cluster.sh"

reason=$(cluster_refusal)
[ -z "$reason" ] || { echo "$reason"; exit 77; }

# ---- what is run ----------------------------------------------------------------------------------

# Jobs are submitted from here, and see only these files. The blanks are part of the test.
work="$dir/my work"
mkdir -p "$work/configs" "$work/logs"
cd "$work"

config() # NAME, YAML on stdin
{
    cat >"configs/$1.yaml"
}

write_configs()
{
    local tokenizer="$top/configs/demo/tokenizer.json"
    config base <<YAML
data: {shards: runs/shards, context: 48, micro_batch: 2}
train: {batch: 12, steps: 100, log_every: 1000}
checkpoint: {every: 5}
YAML
    config import <<YAML
run: {out: runs/transformer}
import: {model: hf}
YAML
    config tokenize <<YAML
run: {out: runs/shards}
tokenize: {inputs: ["$top/LICENSE"], document: paragraph, tokenizer: "$tokenizer"}
YAML
    printf 'base: tokenize.yaml\nrun: {out: runs/heldout}\n' | config tokenize_heldout
    printf 'base: tokenize.yaml\nrun: {out: runs/lessons}\n' | config tokenize_lessons
    config teacher <<YAML
base: base.yaml
run: {out: runs/logits}
model: {weights: runs/transformer}
data: {shards: runs/lessons}
logits: {k: 8}
YAML
    config convert <<YAML
run: {out: runs/hybrid}
model: {weights: runs/transformer}
convert: {pattern: "(attn,gdn)"}
YAML
    config align <<YAML
base: base.yaml
run: {out: runs/align}
model: {weights: runs/hybrid}
teacher: {weights: runs/transformer}
optim: {lr: 2e-3}
YAML
    config distill <<YAML
base: base.yaml
run: {out: runs/distill}
model: {weights: runs/align}
distill: {logits: runs/logits}
data: {shards: runs/lessons}
optim: {lr: 1e-3}
YAML
    config extend <<YAML
base: base.yaml
run: {out: runs/extend}
start: {weights: runs/distill}
data: {context: 96}
train: {steps: 10}
YAML
    config evaluate <<YAML
run: {out: runs/quality}
model: {weights: runs/extend}
evaluate: {shards: runs/heldout, teacher: runs/transformer, context: 48, micro_batch: 3}
YAML
    config export <<YAML
run: {out: runs/huggingface}
model: {weights: runs/extend}
YAML
}

# Nodes of this cluster are processes on one host: two of them, one rank each, to a job.
write_site()
{
    cat >"site of mine.sh" <<'SITE'
export OMP_NUM_THREADS=1 GRAFT_RANKS_PER_NODE=1 GRAFT_LOCK_WAIT=1
GRAFT_SBATCH=(--nodes=2)
SITE
    export GRAFT_SITE=$work/site\ of\ mine.sh GR_BUILD GRAFT_HOME=$top
    unset OMPI_MCA_btl_vader_backing_directory # a node has its own /dev/shm
}

# What disturbed stages start from; made without Slurm, so that they need not wait for the chain
make_inputs()
{
    make_corpus
    make_model
    graft 1 export run.out=hf model.weights="$dir/teacher"
    for s in import tokenize tokenize_heldout tokenize_lessons convert; do graft 1 "${s%%_*}" "configs/$s.yaml"; done
    mv runs inputs
}

# ---- jobs -------------------------------------------------------------------------------------------

align() # NAME SBATCH-OPTION...: submits an alignment into runs/NAME; prints the job's id
{
    GRAFT_CONFIG=configs/align.yaml sbatch --parsable --nodes=2 --job-name="$1" "${@:2}" "$top/slurm/align_8b.sh" run.out="runs/$1" \
        model.weights=inputs/hybrid teacher.weights=inputs/transformer data.shards=inputs/shards
}

state() # JOB
{
    scontrol show job "$1" 2>/dev/null | sed -n 's/^ *JobState=\([A-Z_]*\).*/\1/p' | sort -u | paste -sd' '
}

# Wait until a command succeeds, for at most LIMIT seconds.
await() # LIMIT WHAT COMMAND...
{
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $until ] || { echo "in vain: $what"; show_all; exit 1; }
        sleep 0.1
    done
}

is() { [[ $(state "$1") =~ ^($2)$ ]]; }
says() { grep -qs -- "$2" logs/"$1".*; }

ended() # JOB STATE
{
    await 240 "job $1 to be $2" is "$1" 'COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL'
    is "$1" "$2" || { echo "job $1 is $(state "$1"), not $2"; show_all; exit 1; }
}

show_all()
{
    squeue -o '%i %j %T %r %E'
    tail -n 15 logs/*.log "$cluster/log/slurmctld"
}

steps() { losses "runs/$1/metrics.jsonl" 2>/dev/null | wc -l; }

ranks_of() # NAME: processes of the programs, not of those that launch them
{
    local p
    grep -lszxF "run.out=runs/$1" /proc/[0-9]*/cmdline | cut -d/ -f3 | while read -r p; do
        case $(readlink "/proc/$p/exe") in "$bin"/graft-*) echo "$p" ;; esac
    done
}

freeze() # NAME: its ranks stand still, somewhere in the middle
{
    await 120 "three steps of $1" eval "[ \$(steps $1) -ge 3 ]"
    # shellcheck disable=SC2046
    kill -STOP $(ranks_of "$1")
    [ ! -e "runs/$1/weights.h5" ] || { echo "$1 was over before it could be disturbed"; exit 1; }
}

thaw() # NAME
{
    # shellcheck disable=SC2046
    kill -CONT $(ranks_of "$1") 2>/dev/null || true
}

undisturbed() # NAME: as if nothing had been
{
    same_weights runs/align/weights.h5 "runs/$1/weights.h5" 0
    same_metrics runs/align/metrics.jsonl "runs/$1/metrics.jsonl" 0
    [ -z "$(find "runs/$1" -name '.tmp-*' -o -name '.del-*')" ]
}

part() { printf '%(%T)T %s\n' -1 "$*"; }

# ---- the cluster ------------------------------------------------------------------------------------

write_configs
write_site
make_inputs

cluster_dir=$dir/c
[ ${#cluster_dir} -le 70 ] || cluster_dir=$(mktemp -d /tmp/graft-slurm.XXXXXX)
trap 'cluster_stop; [ "$cluster_dir" = "$dir/c" ] || rm -rf "$cluster_dir"' EXIT
cluster_start "$cluster_dir" 12 4
srun --mpi=list 2>&1 | grep -q pmix || { echo "this srun knows no pmix"; exit 77; }

part "a time limit, in the background: one stage saves at the warning, one only when the time is up"
limit=$(align limit --nodelist=n1,n2 --time=1 --signal=B:USR1@30)
late=$(align late --nodelist=n11,n12 --time=1 --signal=B:USR1@30)
freeze limit
freeze late
(await 90 "the warning" says limit "asked to stop"; thaw limit) &

part "the chain; before it begins, the controller dies and comes back with what it knew"
sed -i 's/^GRAFT_SBATCH=.*/GRAFT_SBATCH=(--nodes=2 --exclude=n[9-12] --begin=now+10)/' "site of mine.sh"
"$top/slurm/pipeline.sh" 8b --configs "$work/configs" | tee chain
sed -i 's/^GRAFT_SBATCH=.*/GRAFT_SBATCH=(--nodes=2)/' "site of mine.sh"
sleep 6 # it writes down what it knows every 5 s; what is younger is lost, and users submit it again
cluster_ctld kill
cluster_ctld start
await 30 "the controller" eval 'timeout 5 squeue >squeue 2>/dev/null && [ -s squeue ]'

part "a stage that finds the disk full, then crashes, held until released; and one that may not be restarted so often"
mkdir -p fake/bin
cat >fake/bin/graft-align <<SH
#!/bin/bash
case " \$* " in *" --print-config "*) exec "$bin/graft-align" "\$@" ;; esac
codes=(86 134 134 134)
code=\${codes[\${SLURM_RESTART_COUNT:-0}]:-}
[ -n "\$code" ] || exec "$bin/graft-align" "\$@"
exit "\$code"
SH
chmod +x fake/bin/graft-align
held=$(GR_BUILD=$work/fake align held)
given_up=$(GRAFT_SRUN=true MAX_RESTARTS=1 align given_up) # a launcher that says 0 and has done nothing

part "preemption"
preempted=$(align preempted --nodelist=n9,n10)
freeze preempted
urgent=$(sbatch --parsable --partition=urgent --nodes=2 --nodelist=n9,n10 --exclusive --output=logs/urgent --wrap 'exit 0')
await 30 "the signal" says preempted "stopped at a checkpoint; back into the queue" # Slurm continues what it wants to stop

part "a twin"
twin=$(align twin --exclude='n[1-2,9-12]')
freeze twin
second=$(align twin --exclude='n[1-2,9-12]')

part "no requeue at this site"
once=$(align once --exclude='n[1-2,9-12]' --no-requeue)
after=$(sbatch --parsable --dependency=afterok:"$once" --output=logs/after --wrap 'test -e runs/once/weights.h5')
freeze once
scancel --batch --signal=USR1 "$once"
await 30 "the signal" says once "asked to stop"
thaw once
await 60 "the lock to be refused" says twin "another run holds the lock"
thaw twin

part "a node is lost, with the batch script"
lost=$(align lost --exclude='n[1-2,9-12]')
freeze lost
node=$(scontrol show job "$lost" | sed -n 's/^ *BatchHost=//p')
cluster_node kill "$node"
scontrol update nodename="$node" state=down reason=test
await 30 "the job to be requeued" is "$lost" 'PENDING|RUNNING'
thaw lost
cluster_node start "$node"

part "cancelled means cancelled"
cancelled=$(align cancelled --exclude='n[1-2,9-12]')
freeze cancelled
scancel "$cancelled"
await 30 "the end" is "$cancelled" CANCELLED

await 60 "to be held" says held "no checkpoint can be written; back into the queue, held"
await 20 "to be held" eval 'squeue -h -j $held -o %r | grep -qi held'
scontrol release "$held"

part "a sweep with a member that fails"
printf '%s\t%s\n' \
    alternating 'convert:convert.pattern=(attn,gdn) align:train.steps=100' \
    late 'align:train.steps=10 align:data.shards=runs/later' \
    top 'convert:convert.pattern=attn:2,gdn:2 align:train.steps=10' >table.tsv
"$top/slurm/sweep.sh" table.tsv --configs "$work/configs" --throttle 2 | tee sweep1
array=$(sed -n 's/^members //p' sweep1)
freeze sweeps/table/alternating/align
scancel --batch --signal=USR1 "${array}_1"
await 30 "the signal" says "sweep_table.${array}_1" "asked to stop"
thaw sweeps/table/alternating/align
ended "$(sed -n 's/^report //p' sweep1)" FAILED
grep -q '^missing: late$' logs/report_table.*.log
says "sweep_table.${array}_1" "start 1: .*ended with 0"
ln -s shards runs/later
"$top/slurm/sweep.sh" table.tsv --configs "$work/configs" | tee sweep2
ended "$(sed -n 's/^report //p' sweep2)" COMPLETED
[ "$(scontrol show job "$(sed -n 's/^members //p' sweep2)" | grep -c JobId=)" -eq 1 ] # only the missing one
"$top/slurm/sweep.sh" table.tsv --configs "$work/configs" | grep 'every member is done'
same_weights runs/align/weights.h5 runs/sweeps/table/alternating/align/weights.h5 0
grep -q '3 of 3 members done' runs/sweeps/table/report.txt
grep -qE '^ +3 +(alternating|late|top) +1 of 1 ' runs/sweeps/table/report.txt

part "in the background: a sweep over types, from one YAML, with a stage that its members share"
cat >mixers.yaml <<YAML
run: {out: runs/sweeps/mixers}
sweep: {configs: "$work/configs", shared: [teacher], stages: [convert, evaluate], types: [gdn], ratios: [0.5, 1]}
YAML
"$top/slurm/sweep_mixers.sh" mixers.yaml | tee sweep3

part "held again, after three crashes without progress"
await 60 "to be held" says held "3 crashes in a row without a new checkpoint; back into the queue, held"
await 20 "to be held" eval 'squeue -h -j $held -o %r | grep -qi held'
scontrol release "$held"

part "how it all ended"
while read -r stage id; do ended "$id" COMPLETED; done <chain
[ -e runs/huggingface/config.json ]
ended "$(sed -n 's/^report //p' sweep3)" COMPLETED
grep -qE '^ +2 +gdn_(0.5|1) +1 of 1 ' runs/sweeps/mixers/report.txt
grep -l 'is complete: nothing to do' logs/teacher_8b.* # the chain's, or the sweep's: the predictions were made once
for name in preempted twin once lost held; do ended "${!name}" COMPLETED; undisturbed "$name"; done
ended "$second" COMPLETED
ended "$urgent" COMPLETED
ended "$after" COMPLETED
says lost "the last start never ended"
says once "job [0-9]* takes its place"
is "$cancelled" CANCELLED
ended "$given_up" FAILED
says given_up "says 0, but there is no product"
says given_up "giving up after 1 restarts"

part "a chain with a failing stage, mended and submitted again"
mkdir -p broken
cp configs/*.yaml broken
sed -i 's|runs/align|runs2/align|; s|runs/hybrid|runs2/hybrid|; s|runs/distill|runs2/distill|' broken/*.yaml
sed -i 's|runs/transformer|runs2/teacher|' broken/align.yaml
"$top/slurm/pipeline.sh" 8b --configs "$work/broken" --from convert --to distill >chain2
ended "$(sed -n 's/^convert //p' chain2)" COMPLETED
ended "$(sed -n 's/^align //p' chain2)" FAILED
ended "$(sed -n 's/^distill //p' chain2)" CANCELLED
ln -s ../runs/transformer runs2/teacher
"$top/slurm/pipeline.sh" 8b --configs "$work/broken" --from convert --to distill >chain2
while read -r stage id; do ended "$id" COMPLETED; done <chain2
grep -q 'is complete: nothing to do' "logs/convert_8b.$(sed -n 's/^convert //p' chain2).log"
same_weights runs/distill/weights.h5 runs2/distill/weights.h5 0

part "the time limit"
for name in limit late; do
    ended "${!name}" COMPLETED
    says $name "stopped at a checkpoint; back into the queue"
    undisturbed $name
done
says late "DUE TO TIME LIMIT"
part "done"
