#!/usr/bin/env bash
# All stages end to end on a tiny model, and 1, 2, 3 and 4 ranks agree on every kind of training.
#
# Tolerances: the order of summation over ranks is all that differs: 1e-5 for the first loss, 1e-4 over 20 steps (fp32 rounding, amplified by
# training).
#TEST np: 1
#TEST timeout: 240
set -euo pipefail
. "$(dirname "$0")/lib.sh"

make_corpus
make_model
make_hybrid
graft 3 teacher run.out="$dir/logits" model.weights="$dir/teacher" data.shards="$dir/shards" data.context=48 logits.k=8
for np in 1 2 3 4; do
    graft $np align run.out="$dir/align$np" model.weights="$dir/hybrid" teacher.weights="$dir/teacher" $tiny train.steps=20 optim.lr=2e-3
    graft $np distill run.out="$dir/distill$np" model.weights="$dir/align1" distill.logits="$dir/logits" $tiny train.steps=20 optim.lr=1e-3
    same_metrics "$dir/align$np/metrics.jsonl" "$dir/align1/metrics.jsonl" 1e-4 1e-5
    same_metrics "$dir/distill$np/metrics.jsonl" "$dir/distill1/metrics.jsonl" 1e-4 1e-5
done
graft 2 extend run.out="$dir/extend" start.weights="$dir/distill2" start.rope_theta=40000 data.shards="$dir/shards" data.context=96 \
    train.batch=3 train.steps=5 heldout.shards="$dir/shards" heldout.every=2

perplexity() # MODEL
{
    graft 2 evaluate run.out="$dir/eval-$1" model.weights="$dir/$1" evaluate.teacher="$dir/teacher" evaluate.shards="$dir/shards" \
        evaluate.context=48 evaluate.micro_batch=3 >/dev/null
    sed -n 's/.*"perplexity": \([0-9.e+-]*\).*/\1/p' "$dir/eval-$1/results.json"
}
teacher=$(perplexity teacher) hybrid=$(perplexity hybrid) align=$(perplexity align2) distill=$(perplexity distill2) extend=$(perplexity extend)
echo "perplexity: teacher $teacher, converted $hybrid, aligned $align, distilled $distill, extended $extend"
awk "BEGIN { exit !($align < $hybrid && $distill < $align && $extend > 1) }"

# A finished stage has nothing to do; another configuration in its place is refused.
graft 2 align run.out="$dir/align2" model.weights="$dir/hybrid" teacher.weights="$dir/teacher" $tiny train.steps=20 optim.lr=2e-3 2>&1 |
    grep -q 'is complete: nothing to do'
rc=0
graft 2 align run.out="$dir/align2" model.weights="$dir/hybrid" teacher.weights="$dir/teacher" $tiny train.steps=20 optim.lr=9e-3 \
    >"$dir/log" 2>&1 || rc=$?
[ $rc -eq 2 ] && grep -q 'made with another configuration' "$dir/log"

graft 2 export run.out="$dir/hf" model.weights="$dir/distill2"
grep -q '"hybrid_override_pattern": "\*-GDN-\*-GDN"' "$dir/hf/config.json"
graft 1 export run.out="$dir/hf" model.weights="$dir/distill2" 2>&1 | grep -q 'is complete: nothing to do'
rc=0
graft 1 export run.out="$dir/hf" model.weights="$dir/distill2" export.dtype=bf16 >"$dir/log" 2>&1 || rc=$?
[ $rc -eq 2 ] && grep -q 'made with another configuration: export.dtype' "$dir/log"

# The same text in another place is the same text: logits still fit. Other text is refused.
graft 2 tokenize run.out="$dir/again" tokenize.inputs="$top/LICENSE" tokenize.document=paragraph tokenize.tokenizer="$top/configs/demo/tokenizer.json"
graft 1 distill run.out="$dir/elsewhere" model.weights="$dir/align1" distill.logits="$dir/logits" ${tiny/$dir\/shards/$dir\/again} train.steps=1
graft 1 tokenize run.out="$dir/other" tokenize.inputs="$top/CHANGELOG.md" tokenize.tokenizer="$top/configs/demo/tokenizer.json"
rc=0
graft 1 distill run.out="$dir/refused" model.weights="$dir/align1" distill.logits="$dir/logits" ${tiny/$dir\/shards/$dir\/other} train.steps=1 >"$dir/log" 2>&1 || rc=$?
[ $rc -eq 2 ] && grep -q 'made for corpus' "$dir/log"
