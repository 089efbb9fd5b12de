#!/usr/bin/env bash
# A checkpoint stands for the model it will become: evaluated, exported or trained on, it gives what the product gives. With
# other weights below it, without them, or damaged, it is refused.
#TEST np: 1
#TEST timeout: 120
set -euo pipefail
. "$(dirname "$0")/lib.sh"

evaluate() # WEIGHTS OUT [KEY=VALUE...]
{
    graft 2 evaluate run.out="$dir/$2" model.weights="$1" evaluate.shards="$dir/shards" evaluate.context=48 evaluate.tokens=500 "${@:3}"
}

quality() # OUT: what was measured
{
    grep -E '"(perplexity|loss|kl|tokens)"' "$dir/$1/results.json"
}

same() # CHECKPOINT PRODUCT NAME [KEY=VALUE...]
{
    evaluate "$1" "$3-checkpoint" "${@:4}"
    evaluate "$2" "$3-product" "${@:4}"
    diff <(quality "$3-checkpoint") <(quality "$3-product") || { echo "$3: the checkpoint is another model than the product"; exit 1; }
}

refused() # WORDS COMMAND...
{
    local words=$1 rc=0
    shift
    "$@" >"$dir/refused.log" 2>&1 || rc=$?
    [ $rc = 2 ] && grep -q "$words" "$dir/refused.log" || { cat "$dir/refused.log"; echo "exit $rc, expected 2 and \"$words\""; exit 1; }
}

make_corpus
make_model
make_hybrid

# From nothing: all of it is in the checkpoint, the tokenizer is referred to. Also as a teacher.
[ "$(ls -d "$dir"/teacher/ckpt/step-* | tail -n 1)" = "$dir/teacher/ckpt/step-00000020" ]
same "$dir/teacher/ckpt" "$dir/teacher" whole evaluate.teacher="$dir/teacher/ckpt/step-00000020"
grep -q '"kl": 0.0' "$dir/whole-checkpoint/results.json" || { echo "a model differs from itself"; exit 1; }

# Only new mixers are trained and saved; the rest comes from the weights the run started from. On another number of ranks.
graft 3 align run.out="$dir/align" model.weights="$dir/hybrid" teacher.weights="$dir/teacher/ckpt" $tiny train.steps=9 optim.lr=2e-3
same "$dir/align/ckpt/step-00000009" "$dir/align" mixers
evaluate "$dir/align/ckpt/step-00000007" older
if diff -q <(quality older) <(quality mixers-product) >/dev/null; then echo "two steps, one result"; exit 1; fi

# A checkpoint over a checkpoint, and what becomes of it: trained, exported.
graft 2 extend run.out="$dir/extend" start.weights="$dir/align/ckpt" $tiny train.steps=3 train.only='*.gdn.*' optim.lr=1e-3
same "$dir/extend/ckpt" "$dir/extend" chain
graft 1 export run.out="$dir/hf-checkpoint" model.weights="$dir/extend/ckpt" export.dtype=f32
graft 1 export run.out="$dir/hf-product" model.weights="$dir/extend" export.dtype=f32
cmp "$dir"/hf-checkpoint/*.safetensors "$dir"/hf-product/*.safetensors

# The weights below are gone, or others.
mv "$dir/hybrid" "$dir/elsewhere"
refused "lies over the weights $dir/hybrid/weights.h5 (content [0-9a-f]\{16\}), which cannot be read" evaluate "$dir/align/ckpt" x
graft 1 convert run.out="$dir/hybrid" model.weights="$dir/teacher" convert.pattern='(attn,gdn)' convert.seed=2
refused "$dir/hybrid/weights.h5: their content is [0-9a-f]\{16\}, expected [0-9a-f]\{16\}" evaluate "$dir/align/ckpt" x
rm -r "$dir/hybrid" && mv "$dir/elsewhere" "$dir/hybrid"

# The newest is damaged: the one before, and nothing is renamed. It alone: refused. None at all: refused.
step=$dir/align/ckpt/step-00000009
printf x | dd of="$step/shard-00000-of-00003.h5" bs=1 seek=20000 conv=notrunc status=none
evaluate "$dir/align/ckpt" fallback
diff <(quality fallback) <(quality older)
[ -d "$step" ]
refused 'checksum [0-9a-f]*, expected' evaluate "$step" x
refused 'no such file\|No such file' evaluate "$dir/shards" x
