#!/usr/bin/env bash
# How a training run saves: beside the steps or not, by steps or by minutes, with a save under way when it is told to stop,
# on a disk that gives back other bytes. The result is the same, bit for bit.
#TEST np: 1
#TEST timeout: 120
set -euo pipefail
. "$(dirname "$0")/lib.sh"

complain() { echo "$*"; exit 1; }

# Batches so large that six steps are longer than a save on a busy disk: what is saved beside the steps is there in time.
extend() # OUT KEY=VALUE...
{
    graft 2 extend run.out="$dir/$1" start.weights="$dir/teacher" $tiny train.steps=24 train.batch=96 optim.lr=1e-3 "${@:2}" 2>"$dir/$1.log"
}

fields() # OUT KEY: its values in metrics.jsonl
{
    sed -n 's/.*"'"$2"'":\([^,}]*\).*/\1/p' "$dir/$1/metrics.jsonl"
}

checkpoints() { ls "$dir/$1/ckpt" | grep -c '^step-' || true; }

make_corpus
make_model
extend waits checkpoint.every=6 checkpoint.async=false
extend beside checkpoint.every=6
same_weights "$dir/waits/weights.h5" "$dir/beside/weights.h5" 0
same_metrics "$dir/waits/metrics.jsonl" "$dir/beside/metrics.jsonl" 0
for out in waits beside; do # the last one is saved after the last record
    [ "$(fields $out saved_step | tr '\n' ' ')" = "6 12 18 " ] || complain "$out: $(fields $out saved_step)"
    fields $out writer_s | awk '!($1 > 0) { bad = 1 } END { exit bad || NR != 3 }' || complain "$out: the writer's seconds"
    fields $out writer_bytes | awk '$1 < 3 * 4 * 64 * 2048 { bad = 1 } END { exit bad || NR != 3 }' || complain "$out: the writer's bytes"
    fields $out saving_s | awk '!($1 > 0) { bad = 1 } END { exit bad || NR < 3 }' || complain "$out: the seconds waited"
    [ "$(grep -c 'step [0-9]* saved: ' "$dir/$out.log")" -ge 3 ] && [ "$(checkpoints $out)" = 2 ] || complain "$out: $(checkpoints $out) checkpoints"
done

# Every step is later than 0.6 ms after the last save; a change of interval or mode is no change of the run.
extend minutes checkpoint.every=1000 checkpoint.minutes=1e-5
[ "$(fields minutes saved_step | wc -l)" -ge 15 ] || complain "saved only $(fields minutes saved_step | wc -l) times by the clock"
same_weights "$dir/waits/weights.h5" "$dir/minutes/weights.h5" 0

# Told to stop with a save under way, which is nearly always here.
extend stopped checkpoint.every=1 train.batch=6 train.steps=100000 schedule.kind=constant &
pid=$!
until [ "$(fields stopped step 2>/dev/null | wc -l)" -ge 5 ]; do kill -0 $pid || complain "ended early"; sleep 0.02; done
kill -USR1 "$(tr ' ' '\n' <"/proc/$pid/task/$pid/children" | head -n 1)"
rc=0
wait $pid || rc=$?
last=$(fields stopped step | tail -n 1)
[ $rc = 85 ] || complain "stopped: exit $rc"
[ -e "$dir/stopped/ckpt/step-$(printf %08d "$last")/manifest.json" ] && [ "$(checkpoints stopped)" = 2 ] || complain "stopped at $last: $(ls "$dir/stopped/ckpt")"
[ -z "$(find "$dir/stopped" -name '.tmp-*' -o -name '.del-*')" ] || complain "stopped: something is left"

# Nothing can be read back: training goes on and saves again at once; the end says so.
rc=0
GR_FAULT=ckpt_verify:1 extend unreadable checkpoint.every=6 || rc=$?
[ $rc = 86 ] && [ "$(fields unreadable step | wc -l)" = 24 ] || complain "unreadable: exit $rc after $(fields unreadable step | wc -l) steps"
[ "$(ls "$dir/unreadable/ckpt" | grep -c '^bad-step-')" -gt 4 ] && [ "$(checkpoints unreadable)" = 0 ] || complain "unreadable: $(ls "$dir/unreadable/ckpt")"
extend unreadable checkpoint.every=6
same_weights "$dir/waits/weights.h5" "$dir/unreadable/weights.h5" 0
