#!/usr/bin/env bash
# Two runs in one directory: the second waits ten seconds, names the first, and leaves with 75; or gets the lock in time.
#TEST np: 1
#TEST timeout: 60
#TEST lane: beside
. "$(dirname "$0")/checkpoint.sh"
command -v flock >/dev/null || skip "needs flock"

want=$(golden 4)
train 2 "$dir/ckpt" 2 2 2
[ $rc = 0 ] || complain "first run, exit $rc"
grep -q '^host .*, pid [0-9]*, since 20.*, attempt 1-' "$dir/ckpt/.lock" || complain "the lock says $(cat "$dir/ckpt/.lock")"

flock "$dir/ckpt/.lock" sleep 2 &
train 2 "$dir/ckpt" 4 2 2
[ $rc = 0 ] && [ "$(final)" = "$want" ] || complain "a lock held for 2 s: exit $rc"
wait

flock "$dir/ckpt/.lock" sleep 30 &
holder=$!
until ! flock -n "$dir/ckpt/.lock" true; do sleep 0.1; done
SECONDS=0
before=$(ls -A "$dir/ckpt")
train 2 "$dir/ckpt" 6 2 2
[ $rc = 75 ] || complain "held for long: exit $rc"
[ $SECONDS -ge 9 ] && [ $SECONDS -le 15 ] || complain "held for long: gave up after $SECONDS s"
grep -q 'another run works here: host .*, pid [0-9]*, since .*, attempt 2-' "$err" || complain "the holder is not named"
[ "$(ls -A "$dir/ckpt")" = "$before" ] || complain "a run without the lock changed the directory"
kill $(cat /proc/$holder/task/$holder/children) 2>/dev/null # its sleep
wait $holder 2>/dev/null
[ $bad = 0 ]
