#!/usr/bin/env bash
# Alignment begins by scaling each new mixer to its target: the error falls in every layer, is never worse than that of a zero, the best
# scale is a fixed point, and ranks agree on it. Learning rate 0: nothing else changes the weights.
#
# Tolerances: the best scale leaves an error of at most 1, or, where output and target do not go together, 1 + 0.1^2; a second scale is 1
# but for fp32 rounding of sums over a few thousand numbers (1e-4).
#TEST np: 1
#TEST timeout: 240
set -euo pipefail
. "$(dirname "$0")/lib.sh"

make_corpus
make_model
make_hybrid

# one MODEL NAME RANKS ARGUMENT...: a step that learns nothing, from MODEL
one()
{
    local model=$1 name=$2 np=$3
    shift 3
    graft "$np" align run.out="$dir/$name" model.weights="$dir/$model" teacher.weights="$dir/teacher" $tiny train.steps=1 optim.lr=0 "$@"
}

layers() # NAME: the error of each layer in the first step
{
    sed -n 's/.*"step":1,.*"layers":\[\([^]]*\)\].*/\1/p' "$dir/$1/metrics.jsonl"
}

one hybrid plain 1 align.calibrate=false
one hybrid scaled 1
one hybrid scaled3 3
one scaled again 1
same_weights "$dir/scaled/weights.h5" "$dir/again/weights.h5" 1e-4
same_weights "$dir/scaled/weights.h5" "$dir/scaled3/weights.h5" 1e-5
! same_weights "$dir/scaled/weights.h5" "$dir/plain/weights.h5" 1e-3 >/dev/null

paste -d, <(layers plain) <(layers scaled) | awk -F, '
    { n = NF / 2; print
      for (i = 1; i <= n; i++) if (!($(i + n) < $i) || !($(i + n) <= 1.0101)) { print "layer " i ": " $i " -> " $(i + n); bad = 1 } }
    END { exit bad || n < 1 }'
