#!/usr/bin/env bash
# Written beside the training: killed at every system call of the writer, and at every one of the thread that trains; an
# error in every call of the writer; the run goes on as if nothing had happened.
#TEST np: 1
#TEST timeout: 240
. "$(dirname "$0")/checkpoint.sh"
command -v strace >/dev/null || skip "needs strace"
strace -f -e trace=getpid true 2>/dev/null || skip "strace may not trace here"

mode=async
want=$(golden 8)
base=$dir/base
train 2 "$base" 4 2 2
[ $rc = 0 ] || { complain "two checkpoints, exit $rc"; exit 1; }

recovers() # WHAT
{
    local step n=0 what=$1
    for step in "$dir/ckpt"/step-*; do # what looks like a checkpoint is one, and at least two are there at any moment
        n=$((n + 1))
        set -- "$step"/shard-*-of-*.h5
        [ -e "$step/manifest.json" ] && [ $# = $((10#${1: -8:5})) ] || complain "$what: ${step##*/} holds $(ls "$step")"
    done
    [ $n -ge 2 ] || complain "$what: only $n checkpoints are left"
    train 0 "$dir/ckpt" 8 2 2
    [ $rc = 0 ] && [ "$(final)" = "$want" ] && [[ $(resumed) = [468] ]] || complain "$what: then exit $rc, resumed $(resumed), $(final)"
    grep -q 'set aside' "$err" && complain "$what: a damaged checkpoint was published"
    clean "$dir/ckpt" "$what"
}

# attached INJECTION CALL: a run whose threads strace begins to follow when its start is over. It counts calls of each
# thread for itself: the k-th one of the writer comes before the k-th one of the thread that trains.
attached()
{
    local pid tracer
    rm -f "$dir/go" && mkfifo "$dir/go"
    : >"$out" # "ready" of the run before is not this one's
    "$drive" "$dir/ckpt" 8 2 2 $rows alone async wait <"$dir/go" >"$out" 2>"$err" &
    pid=$!
    exec 3>"$dir/go"
    until grep -q ready "$out" || ! kill -0 $pid 2>/dev/null; do sleep 0.005; done
    strace -f -p $pid -o "$dir/trace" -e trace="$2" -e inject="$1" 2>"$dir/strace" &
    tracer=$!
    until grep -q attached "$dir/strace" || ! kill -0 $tracer 2>/dev/null; do sleep 0.005; done
    echo >&3
    exec 3>&-
    wait $pid 2>/dev/null
    rc=$?
    wait $tracer 2>/dev/null
}

# One thread of many calls them: the one that trains.
from_the_start() # INJECTION CALL
{
    strace -qq -o "$dir/trace" -e trace="$2" -e inject="$1" "$drive" "$dir/ckpt" 8 2 2 $rows alone async >"$out" 2>"$err"
    rc=$?
}

kills=0
for how in attached from_the_start; do
    calls="fsync rename pwrite64 unlink"
    [ $how = attached ] && calls="fsync rename pwrite64 pread64 fallocate fadvise64 openat unlink rmdir"
    for call in $calls; do
        for ((k = 1; k < 60; k++)); do
            fresh "$base"
            { $how $call:signal=KILL:when=$k $call; } 2>/dev/null
            [ $rc = 0 ] && break # there is no k-th call
            [ $rc = 137 ] || complain "$how, $call $k: exit $rc instead of being killed"
            kills=$((kills + 1))
            recovers "$how, killed at $call $k"
        done
        [ $k -lt 60 ] || complain "$how, $call: no end"
    done
done
echo "$kills kills"
[ $kills -ge 40 ] || complain "only $kills kills: strace does not inject"

# Errors. What is called saved is there, and stays unless it reads back damaged; what is called failed is not.
failed=0 damaged=0 injected=0
for inject in fsync:EIO rename:EIO pwrite64:ENOSPC pwrite64:EINTR pwrite64:EINVAL pread64:EIO fallocate:ENOSPC fadvise64:EIO openat:EMFILE; do
    call=${inject%:*}
    for ((k = 1; k < 60; k++)); do
        fresh "$base"
        { attached $call:error=${inject#*:}:when=$k $call; } 2>/dev/null
        grep -q INJECTED "$dir/trace" || break # there is no k-th call
        what="$inject $k"
        injected=$((injected + 1))
        grep -q failed "$out" && failed=$((failed + 1))
        grep -q damaged "$out" && damaged=$((damaged + 1))
        case $rc in
        0) [ "$(final)" = "$want" ] || complain "$what: final $(final)" ;;
        86) grep -q 'failed 8\|damaged 8' "$out" || complain "$what: exit 86, but the last save worked" ;;
        *) complain "$what: exit $rc" ;;
        esac
        for step in 6 8; do
            there=0
            [ -e "$dir/ckpt/step-0000000$step" ] && there=1
            grep -q "failed $step\|damaged $step" "$out" && [ $there = 1 ] && complain "$what: step $step is not good, and is there"
            grep -q "saved $step" "$out" && ! grep -q "damaged $step" "$out" && [ $there = 0 ] && complain "$what: step $step saved, and is not there"
        done
        train 0 "$dir/ckpt" 8 2 2
        [ $rc = 0 ] && [ "$(final)" = "$want" ] || complain "$what: then exit $rc, $(final)"
        clean "$dir/ckpt" "$what"
    done
    [ $k -lt 60 ] || complain "$inject: no end"
done
echo "$injected errors, $failed failed saves, $damaged read back damaged"
[ $failed -ge 10 ] && [ $damaged -ge 1 ] || complain "only $failed failed, $damaged damaged: strace does not inject"
[ $bad = 0 ]
