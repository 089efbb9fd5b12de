#!/usr/bin/env bash
# Stopped by a signal or killed at random moments and started again, training ends with the very bits of an undisturbed run.
#TEST np: 1
#TEST timeout: 240
set -euo pipefail
. "$(dirname "$0")/lib.sh"

make_corpus
make_model
make_hybrid

align() # OUT
{
    graft 2 align run.out="$dir/$1" model.weights="$dir/hybrid" teacher.weights="$dir/teacher" $tiny train.batch=24 train.steps=160 optim.lr=2e-3
}

distill() # OUT
{
    graft 2 distill run.out="$dir/$1" model.weights="$dir/hybrid" distill.logits="$dir/logits" $tiny train.batch=12 train.steps=90 \
        optim.lr=1e-3
}

extend() # OUT
{
    graft 2 extend run.out="$dir/$1" start.weights="$dir/hybrid" $tiny train.batch=12 train.steps=120 optim.lr=1e-3
}

steps() # OUT: training steps recorded so far
{
    losses "$dir/$1/metrics.jsonl" 2>/dev/null | wc -l
}

# Wait until OUT has recorded $2 steps (an event, not a time), or the run is over.
wait_for() # OUT STEPS PID
{
    while kill -0 "$3" 2>/dev/null && [ "$(steps "$1")" -lt "$2" ]; do sleep 0.02; done
}

child_of() # PID
{
    tr ' ' '\n' <"/proc/$1/task/$1/children" 2>/dev/null | head -n 1
}

# A rank's pid: mpirun's children are its ranks.
rank_of() # MPIRUN_PID
{
    cat /proc/"$1"/task/*/children 2>/dev/null | tr ' ' '\n' | grep . | shuf -n1 --random-source=<(yes 7) || true
}

disturbed() # JOB OUT
{
    local job=$1 out=$2 rc pid mpirun attempt=0 signals=(KILL TERM KILL USR1 KILL)
    while :; do
        $job "$out" >>"$dir/$out.log" 2>&1 &
        pid=$!
        if [ $attempt -lt ${#signals[@]} ]; then
            wait_for "$out" $(($(steps "$out") + 3 + RANDOM % 20)) $pid
            sleep 0.0$((RANDOM % 10))
            mpirun=$(child_of $pid)
            case ${signals[$attempt]} in
            USR1) kill -USR1 "$mpirun" || true ;; # mpirun hands it to the ranks; TERM would make it abort them
            *) kill -"${signals[$attempt]}" "$(rank_of "$mpirun")" || true ;; # of one rank, as srun does
            esac
        fi
        rc=0
        wait $pid || rc=$?
        echo "$out: attempt $attempt ended with $rc after $(steps "$out") steps"
        [ $rc -ne 0 ] || break
        attempt=$((attempt + 1))
        [ $attempt -lt 12 ] || { tail -20 "$dir/$out.log"; return 1; }
    done
    [ $attempt -ge 3 ] || { echo "only $attempt interruptions: nothing was tested"; return 1; }
}

RANDOM=${GR_SEED:-5}
graft 2 teacher run.out="$dir/logits" model.weights="$dir/teacher" data.shards="$dir/shards" data.context=48 logits.k=8
for job in align distill extend; do
    $job "$job-whole" >"$dir/$job.log" 2>&1
    disturbed $job "$job-broken"
    same_weights "$dir/$job-whole/weights.h5" "$dir/$job-broken/weights.h5" 0
    same_metrics "$dir/$job-whole/metrics.jsonl" "$dir/$job-broken/metrics.jsonl" 0
    [ -z "$(find "$dir/$job-broken" -name '.tmp-*' -o -name '.del-*')" ]
done
