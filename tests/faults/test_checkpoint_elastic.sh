#!/usr/bin/env bash
# A checkpoint of 4 ranks is resumed by 1, 2, 3 and 5, one of 1 by 4: the same state, bit for bit.
#TEST np: 1
#TEST timeout: 60
. "$(dirname "$0")/checkpoint.sh"

want=$(golden 9)
mode=async # tests/mpi/test_checkpoint.c has both
for pair in 4:1 4:2 4:3 4:5 1:4; do
    rm -rf "$dir/ckpt"
    train ${pair%:*} "$dir/ckpt" 6 3 2
    [ $rc = 0 ] || complain "$pair: first half, exit $rc"
    [ "$(ls "$dir/ckpt/step-00000006" | wc -l)" = $((${pair%:*} + 1)) ] || complain "$pair: files of the checkpoint"
    train ${pair#*:} "$dir/ckpt" 9 3 2
    [ $rc = 0 ] && [ "$(resumed)" = 6 ] && [ "$(final)" = "$want" ] || complain "$pair: exit $rc, $(final), expected $want"
    grep -q 'meta {"cursor":6000}' "$out" || complain "$pair: meta"
done
[ $bad = 0 ]
