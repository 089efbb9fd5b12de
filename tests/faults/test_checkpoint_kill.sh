#!/usr/bin/env bash
# Killed at every fsync, rename, write, ... of a save, of the deletion that follows and of the start: the next run finds the
# older or the new checkpoint complete, and ends as if nothing had happened.
#TEST np: 1
#TEST timeout: 90
. "$(dirname "$0")/checkpoint.sh"
command -v strace >/dev/null || skip "needs strace"
strace -f -e trace=getpid true 2>/dev/null || skip "strace may not trace here"

want=$(golden 6)
base=$dir/base
train 2 "$base" 4 2 2
[ $rc = 0 ] || { complain "two checkpoints, exit $rc"; exit 1; }
mkdir "$base/.tmp-step-00000006-1-2-3" "$base/.del-step-00000002-1-2-3"
echo garbage | tee "$base/.tmp-step-00000006-1-2-3/shard-00000-of-00001.h5" >"$base/.del-step-00000002-1-2-3/manifest.json"

recovers() # WHAT
{
    local step n=0
    for step in "$dir/ckpt"/step-*; do # at any moment what looks like a checkpoint is one, and at least two are
        n=$((n + 1))
        set -- "$1" "$step"/shard-*-of-*.h5
        [ -e "$step/manifest.json" ] && [ $# = $((1 + 10#${2: -8:5})) ] || complain "$1: ${step##*/} holds $(ls "$step")"
    done
    [ $n -ge 2 ] || complain "$1: only $n checkpoints are left"
    train 0 "$dir/ckpt" 6 2 2
    [ $rc = 0 ] && [ "$(final)" = "$want" ] && [[ $(resumed) = [46] ]] || complain "$1: then exit $rc, resumed $(resumed), $(final)"
    grep -q 'set aside' "$err" && complain "$1: a damaged checkpoint was published"
    clean "$dir/ckpt" "$1"
}

# The order of a save: shards, manifest, their directory, rename, the parent. A crash of the machine can be tested in no
# other way here.
fresh "$base"
strace -f -qq -y -o "$dir/trace" -e trace=fsync,rename "$drive" "$dir/ckpt" 6 2 2 $rows alone >"$out" 2>"$err"
order=$(sed -n -e 's/.*fsync(.*\/manifest.json>).*/M/p' -e 's/.*fsync(.*shard-[^\/]*>).*/S/p' -e 's/.*fsync(.*\/\.tmp-step-[^\/]*>).*/D/p' \
    -e 's/.*rename(".*shard-.*/r/p' -e 's/.*rename(".*\/\.tmp-step-[^\/]*", ".*\/step-[0-9]*").*/R/p' -e 's/.*fsync([0-9]*<.*\/ckpt>).*/P/p' "$dir/trace" | tr -d '\n')
[[ $order =~ S+rDMDRP ]] || complain "order of a save: $order"

kills=0
for call in fsync rename pwrite64 mkdir unlink rmdir ftruncate flock write; do
    for ((k = 1; k < 100; k++)); do
        fresh "$base"
        { strace -f -qq -o /dev/null -e trace=$call -e inject=$call:signal=KILL:when=$k \
            "$drive" "$dir/ckpt" 6 2 2 $rows alone >"$out" 2>"$err"; } 2>/dev/null
        rc=$?
        [ $rc = 0 ] && break # there is no k-th call
        [ $rc = 137 ] || complain "$call $k: exit $rc instead of being killed"
        kills=$((kills + 1))
        recovers "killed at $call $k"
    done
    [ $k -lt 100 ] || complain "$call: no end"
done
echo "$kills kills"
[ $kills -ge 25 ] || complain "only $kills kills: strace does not inject"

# One of two ranks; mpirun ends the other.
cat >"$dir/victim" <<'EOF'
#!/bin/sh
[ "$OMPI_COMM_WORLD_RANK" = "$VICTIM" ] || exec "$@"
exec strace -f -qq -o /dev/null -e trace=$CALL -e inject=$CALL:signal=KILL:when=$K "$@"
EOF
chmod +x "$dir/victim"
for at in 0:rename:2 0:fsync:5 1:fsync:1 1:rename:1; do
    fresh "$base"
    export VICTIM=${at%%:*} K=${at##*:} CALL=${at#*:}
    CALL=${CALL%:*}
    timeout -k 2 20 mpirun -n 2 "$dir/victim" "$drive" "$dir/ckpt" 6 2 2 $rows >"$out" 2>"$err"
    rc=$?
    [ $rc != 0 ] || complain "rank ${at%%:*} survived"
    recovers "killed at $at"
done
[ $bad = 0 ]
