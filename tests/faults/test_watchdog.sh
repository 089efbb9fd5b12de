#!/usr/bin/env bash
# A rank that hangs is noticed: every rank that waits for it says where, in one line, and the job ends with 124; nothing is lost.
# A job that was only suspended, or that works for long, goes on.
#TEST np: 1
#TEST timeout: 240
#TEST lane: beside
set -euo pipefail
. "$(dirname "$0")/../jobs/lib.sh"

# ---- where it hangs, and what it says -------------------------------------------------------------

# The one line of a rank: where it hangs, and what its threads wait for.
said() # LOG RANK PROGRAM PATTERN
{
    local line="^$3\[$2\]: hangs: no sign of life for [0-9]* s on host [^ ]*, in $4 (run.watchdog = [0-9]*, exit 124);"
    line+=' threads: [0-9]* [^ ]* [A-Za-z] in .*, system call [a-z0-9?]*;'
    [ "$(grep -c "^$3\[$2\]: hangs: " "$1")" -eq 1 ] && grep -q "$line" "$1" && return
    echo "rank $2 did not say, once, that it hangs in $4:"
    grep -a hangs "$1" || tail -20 "$1"
    return 1
}

no_alarm() # LOG
{
    if grep hangs "$1"; then return 1; fi
}

drive() # PLACE KEY=VALUE
{
    exec timeout -k 5 60 mpirun -n 2 "$GR_BUILD/tests/faults/drive_watchdog" "$1" run.out="$dir" import.model=none "$2"
}

# mpirun's own exit code, and no longer than the limit and a few seconds for saying so
hang_in() # PLACE PATTERN_OF_RANK_0 PATTERN_OF_RANK_1
{
    local rc=0 start=$SECONDS log=$dir/$1.log
    (drive "$1" run.watchdog=4) >"$log" 2>&1 || rc=$?
    [ $rc -eq 124 ] || { echo "$1: exit code $rc"; cat "$log"; return 1; }
    [ $((SECONDS - start)) -lt 30 ] || { echo "$1: $((SECONDS - start)) s until the end"; return 1; }
    said "$log" 0 graft-import "$2"
    said "$log" 1 graft-import "$3"
}

job=()
hang_in local    'agreement, step 118'    'local work, step 118'   & job+=($!)
hang_in fsync    'agreement, step 118'    'fsync, step 118'        & job+=($!)
hang_in finalize 'MPI_Finalize, step 118' 'MPI_Finalize, step 118' & job+=($!)
drive beats run.watchdog=2 & job+=($!)
for j in "${job[@]}"; do wait "$j"; done

# ---- a rank of a real run is stopped ----------------------------------------------------------------

make_corpus
limit=4

extend() # OUT KEY=VALUE...
{
    local out=$1
    shift
    graft 3 extend run.out="$dir/$out" start.config="$dir/model.json" start.tokenizer="$top/configs/demo/tokenizer.json" $tiny \
        train.batch=12 train.steps=60 optim.lr=1e-3 run.watchdog=$limit "$@"
}

child_of() # PID
{
    tr ' ' '\n' <"/proc/$1/task/$1/children" | head -n 1
}

# OUT's ranks by rank, when it has done $2 steps; mpirun's children are its ranks, in order.
ranks_after() # OUT STEPS PID_OF_SHELL
{
    while kill -0 "$3" && [ "$(losses "$dir/$1/metrics.jsonl" 2>/dev/null | wc -l)" -lt "$2" ]; do sleep 0.02; done
    rank=($(cat "/proc/$(child_of "$3")/task"/*/children))
    [ ${#rank[@]} -eq 3 ] || { echo "${#rank[@]} ranks"; return 1; }
}

# mpirun ends the stopped one as well. A process that only its parent has not buried yet is gone.
gone() # PID...
{
    local p
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        for p in "$@"; do
            ! grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$p/status" || break
            shift
        done
        [ $# -gt 0 ] || return 0
        sleep 0.5
    done
    echo "process $1 was left behind: $(grep State "/proc/$1/status")"
    kill -9 "$@"
    return 1
}

write_model_json
extend whole >"$dir/whole.log" 2>&1

extend stopped >"$dir/stopped.log" 2>&1 &
pid=$! rc=0
ranks_after stopped 20 $pid
start=$SECONDS
kill -STOP "${rank[0]}"
wait $pid || rc=$?
[ $rc -eq 124 ] || { echo "exit code $rc after rank 0 was stopped"; tail "$dir/stopped.log"; exit 1; }
[ $((SECONDS - start)) -lt $((limit + 20)) ] || { echo "$((SECONDS - start)) s until the end"; exit 1; }
for r in 1 2; do said "$dir/stopped.log" $r graft-extend '[a-z]*, step [0-9]*'; done
gone "${rank[@]}"
extend stopped >"$dir/again.log" 2>&1
grep -q 'resumed at step' "$dir/again.log"
same_weights "$dir/whole/weights.h5" "$dir/stopped/weights.h5" 0
same_metrics "$dir/whole/metrics.jsonl" "$dir/stopped/metrics.jsonl" 0

# ---- nothing hangs -------------------------------------------------------------------------------------

# Quiet for three seconds, and suspended for six in the midst of them: not nine of quiet.
drive quiet run.watchdog=5 >"$dir/quiet.log" 2>&1 &
pid=$!
until grep -qs quiet "$dir/quiet.log"; do sleep 0.05; done
sleep 1.2
rank=($(cat "/proc/$(child_of $pid)/task"/*/children))
kill -STOP "${rank[@]}"
sleep 6
kill -CONT "${rank[@]}"
wait $pid || { echo "quiet and suspended: exit code $?"; cat "$dir/quiet.log"; exit 1; }
no_alarm "$dir/quiet.log" # it could end well in the moment between the report and the end

# All ranks are suspended for longer than the limit; or one is, without a watchdog.
for case in suspended: off:run.watchdog=0; do
    out=${case%%:*}
    extend "$out" ${case#*:} >"$dir/$out.log" 2>&1 &
    pid=$!
    ranks_after "$out" 20 $pid
    [ $out = suspended ] || rank=("${rank[1]}")
    kill -STOP "${rank[@]}"
    sleep $((limit + 4))
    kill -CONT "${rank[@]}"
    wait $pid || { echo "$out: exit code $?"; tail "$dir/$out.log"; exit 1; }
    no_alarm "$dir/$out.log"
    same_weights "$dir/whole/weights.h5" "$dir/$out/weights.h5" 0
done

# One step takes longer than the limit, and is no alarm: its layers are signs of life.
extend long run.watchdog=2 train.steps=1 train.batch=12000 >"$dir/long.log" 2>&1
sed -n 's/.*"seconds":\([0-9.]*\).*/\1/p' "$dir/long/metrics.jsonl" | awk '{ print "a step of " $1 " s under a limit of 2 s"; exit !($1 > 2.5) }'
