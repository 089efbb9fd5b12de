#!/usr/bin/env bash
# Every fsync, rename, write, ... of a save fails once: the save is reported as failed, or was not touched; training goes
# on; older checkpoints are intact; the next save works.
#TEST np: 1
#TEST timeout: 90
. "$(dirname "$0")/checkpoint.sh"
command -v strace >/dev/null || skip "needs strace"
strace -f -e trace=getpid true 2>/dev/null || skip "strace may not trace here"

want=$(golden 8)
base=$dir/base
train 2 "$base" 4 2 3
[ $rc = 0 ] || { complain "two checkpoints, exit $rc"; exit 1; }

failed=0 injected=0
for inject in fsync:EIO rename:EIO pwrite64:ENOSPC mkdir:EDQUOT pwrite64:EINTR statfs:EIO pread64:EIO unlink:EACCES rmdir:EACCES; do
    call=${inject%:*} error=${inject#*:}
    for ((k = 1; k < 40; k++)); do
        fresh "$base"
        strace -f -qq -o "$dir/trace" -e trace=$call -e inject=$call:error=$error:when=$k \
            "$drive" "$dir/ckpt" 8 2 3 $rows alone >"$out" 2>"$err"
        rc=$?
        grep -q INJECTED "$dir/trace" || break # there is no k-th call
        what="$inject $k"
        injected=$((injected + 1))
        grep -q 'failed' "$out" && failed=$((failed + 1))
        case $rc in
        0) [ "$(final)" = "$want" ] || complain "$what: final $(final)" ;;
        86) grep -q 'failed 8' "$out" || complain "$what: exit 86, but the last save worked" ;;
        1 | 2 | 127) grep -q 'saved' "$out" && complain "$what: exit $rc after a save" ;; # could not start; 127: the loader
        *) complain "$what: exit $rc" ;;
        esac
        [ "$(grep -c failed "$out")" -le 1 ] || complain "$what: one error, two failed saves"
        ls -d "$dir/ckpt"/.tmp-step-* >/dev/null 2>&1 && [ $call != unlink ] && [ $call != rmdir ] && complain "$what: a failed save left its files"
        for step in 6 8; do # what was called saved is there, what was called failed is not
            grep -q "failed $step" "$out" && [ -e "$dir/ckpt/step-0000000$step" ] && complain "$what: step $step failed, and is there"
            grep -q "saved $step" "$out" && [ ! -e "$dir/ckpt/step-0000000$step" ] && complain "$what: step $step saved, and is not there"
        done
        train 0 "$dir/ckpt" 8 2 3
        [ $rc = 0 ] && [ "$(final)" = "$want" ] || complain "$what: then exit $rc, $(final)"
        clean "$dir/ckpt" "$what"
        grep -q 'failed 8' "$out" && break # the second save: the same calls again
        [[ $inject = *:EINTR || $inject = pread64:* ]] && [ $k -ge 12 ] && break
    done
    [ $k -lt 40 ] || complain "$inject: no end"
done
echo "$injected errors, $failed failed saves"
[ $failed -ge 15 ] || complain "only $failed saves failed: strace does not inject"
[ $bad = 0 ]
