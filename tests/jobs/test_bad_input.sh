#!/usr/bin/env bash
# Every kind of bad input ends on all ranks with exit code 2 and one line that says what is wrong, and leaves nothing that looks like a result.
#TEST np: 1 3
#TEST timeout: 200
set -euo pipefail
. "$(dirname "$0")/lib.sh"
models=$top/tests/golden/models bad=0
launch=(mpirun -n "$GR_NP")
if [ "$GR_NP" -eq 1 ]; then launch=(); fi # one process needs no launcher, which takes two seconds to leave with an error

# refused NAME OUTPUT TEXT PROGRAM ARGUMENT...: exit code 2, TEXT in the log, OUTPUT absent, no rank left behind
refused()
{
    local name=$1 output=$2 text=$3 program=$4 rc=0
    shift 4
    timeout 20 "${launch[@]}" "$bin/graft-$program" "$@" >"$dir/log" 2>&1 || rc=$?
    if [ $rc -ne 2 ] || ! grep -q -e "$text" "$dir/log" || [ -e "$output" ] || [ "$(grep -c 'error (' "$dir/log")" -gt "$GR_NP" ]; then
        echo "$name: exit code $rc, expected 2 and '$text'"
        sed 's/^/    /' "$dir/log" | tail -8
        bad=1
    fi
}

copy() # a good model, to be spoilt
{
    rm -rf "$dir/m"
    cp -r "$models/qwen3_tied" "$dir/m"
}

u64() # little-endian
{
    printf "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) \
        $(($1 >> 24 & 255)) $(($1 >> 32 & 255)) $(($1 >> 40 & 255)) $(($1 >> 48 & 255)) $(($1 >> 56 & 255)))"
}

header() # of the model's safetensors, as text
{
    tail -c +9 "$models/qwen3_tied/model.safetensors" | head -c "$(od -An -t u8 -N 8 "$models/qwen3_tied/model.safetensors" | tr -d ' ')"
}

respell() # HEADER: the model's data under another header
{
    local text=$1 size
    size=$(od -An -t u8 -N 8 "$models/qwen3_tied/model.safetensors" | tr -d ' ')
    { u64 ${#text}; printf %s "$text"; tail -c +$((9 + size)) "$models/qwen3_tied/model.safetensors"; } >"$dir/m/model.safetensors"
}

import() # NAME TEXT
{
    refused "$1" "$dir/w.h5" "$2" import run.out="$dir/w.h5" import.model="$dir/m"
}

# ---- safetensors and config.json
copy; truncate -s -100 "$dir/m/model.safetensors"; import "truncated safetensors" model.safetensors
copy; { u64 1000000000000; tail -c +9 "$models/qwen3_tied/model.safetensors"; } >"$dir/m/model.safetensors"; import "header larger than the file" header
copy; respell "$(header | sed 's/"data_offsets":\[0,/"data_offsets":[4096000,/')"; import "offsets out of range" model.safetensors
copy; respell "$(header | sed 's/"F32"/"I64"/')"; import "wrong dtype" 'model.safetensors'
copy; respell "$(header | sed 's/\[96,32\]/[32,96]/')"; import "wrong shape" 'shape'
copy; printf '\x00\x00\xc0\x7f' | dd of="$dir/m/model.safetensors" bs=1 seek=$(($(stat -c %s "$dir/m/model.safetensors") - 400)) conv=notrunc status=none
import "NaN weights" 'NaN'
copy; rm "$dir/m/model.safetensors"; import "missing safetensors" 'model.safetensors'
copy; rm "$dir/m/config.json"; import "missing config.json" 'config.json'
copy; sed -i 's/"silu"/"gelu"/' "$dir/m/config.json"; import "unknown activation" 'hidden_act'
copy; sed -i 's/"qwen3"/"mamba"/' "$dir/m/config.json"; import "unknown family" 'model_type'
copy; sed -i 's/"attention_bias": false/"attention_bias": true/' "$dir/m/config.json"; import "an option that is not honoured" 'attention_bias'
copy; sed -i 's/{$/{ "surprise": 1,/;' "$dir/m/config.json"; import "an unknown member" 'surprise'
copy; echo '{' >"$dir/m/config.json"; import "broken config.json" 'config.json'

# ---- configuration
echo 'run: {out: [' >"$dir/broken.yaml"; refused "broken YAML" "$dir/x" 'broken.yaml:' import "$dir/broken.yaml"
printf 'import:\n  model: %s\n  modell: 3\n' "$dir/m" >"$dir/unknown.yaml"
refused "unknown key" "$dir/x" 'unknown.yaml:3' import "$dir/unknown.yaml" run.out="$dir/x"
refused "missing configuration file" "$dir/x" 'nowhere.yaml' import "$dir/nowhere.yaml" run.out="$dir/x"
refused "missing key" "$dir/x" 'import.model' import run.out="$dir/x"
refused "a backend this build lacks" "$dir/x" 'cuda' import run.out="$dir/x" import.model="$models/qwen3_tied" run.backend=cuda

# ---- text
tokenize() # NAME TEXT INPUT [ARGUMENT...]
{
    local name=$1 text=$2 input=$3
    shift 3
    rm -rf "$dir/s"
    refused "$name" "$dir/s/index.json" "$text" tokenize run.out="$dir/s" tokenize.inputs="$input" \
        tokenize.tokenizer="$top/configs/demo/tokenizer.json" "$@"
}
printf 'good text\nbad \xff\xfe byte\n' >"$dir/latin.txt"; tokenize "non-UTF-8 text" 'latin.txt' "$dir/latin.txt"
: >"$dir/empty.txt"; tokenize "empty corpus" 'corpus is empty' "$dir/empty.txt"
tokenize "missing text" 'nothing.txt' "$dir/nothing.txt"
echo '{"text": "a"} {' >"$dir/broken.jsonl"; tokenize "broken JSONL" 'broken.jsonl:1' "$dir/broken.jsonl" tokenize.format=jsonl
tokenize "an end-of-text token that does not exist" 'no_such' "$top/LICENSE" tokenize.eos='<|no_such|>'

# ---- things that do not belong together
mpirun -n 1 "$bin/graft-import" run.out="$dir/small.h5" import.model="$models/qwen3_tied" >"$dir/log" 2>&1
make_corpus >"$dir/log" 2>&1
refused "tokenizer of another vocabulary" "$dir/e" 'tokenizer has 2048 ids' evaluate run.out="$dir/e" model.weights="$dir/small.h5" \
    evaluate.shards="$dir/shards"
refused "tokenizer of another vocabulary, training" "$dir/t/weights.h5" 'tokenizer has 2048 ids' extend run.out="$dir/t" start.weights="$dir/small.h5" \
    data.shards="$dir/shards"
refused "pattern of another depth" "$dir/h.h5" 'the model has 3' convert run.out="$dir/h.h5" model.weights="$dir/small.h5" convert.pattern=attn,gdn
refused "unknown mixer" "$dir/h.h5" "unknown mixer 'rwkv'" convert run.out="$dir/h.h5" model.weights="$dir/small.h5" convert.pattern='(attn,rwkv)'
refused "neither pattern nor selection" "$dir/h.h5" 'convert.pattern or convert.selection' convert run.out="$dir/h.h5" model.weights="$dir/small.h5"
echo '{"pattern": ["attn"]}' >"$dir/selection.json"
refused "selection without a pattern" "$dir/h.h5" 'selection.json: pattern' convert run.out="$dir/h.h5" model.weights="$dir/small.h5" convert.selection="$dir/selection.json"
refused "option of a type that is not there" "$dir/h.h5" 'mixer.gdn_neg_eigval' convert run.out="$dir/h.h5" model.weights="$dir/small.h5" convert.pattern=attn,attn,attn mixer.gdn_neg_eigval=true
refused "weights that are shards" "$dir/e" 'kind' evaluate run.out="$dir/e" model.weights="$dir/shards/shard-00000.h5" evaluate.shards="$dir/shards"
cp "$dir/small.h5" "$dir/flipped.h5"; printf '\x55' | dd of="$dir/flipped.h5" bs=1 seek=40000 conv=notrunc status=none
refused "a flipped byte in the weights" "$dir/e" 'checksum' evaluate run.out="$dir/e" model.weights="$dir/flipped.h5" evaluate.shards="$dir/shards"
truncate -s -1000 "$dir/flipped.h5"
refused "truncated weights" "$dir/e" 'truncated' evaluate run.out="$dir/e" model.weights="$dir/flipped.h5" evaluate.shards="$dir/shards"
refused "training into a file" "$dir/t.h5" 'wants a directory' extend run.out="$dir/t.h5" start.weights="$dir/small.h5" data.shards="$dir/shards"
echo "[[1, 96]]" >"$dir/ids.json"
refused "ids out of the vocabulary" "$dir/l/logits.h5" 'ids.json' evaluate run.out="$dir/l" model.weights="$dir/small.h5" evaluate.task=logits \
    evaluate.ids="$dir/ids.json"
exit $bad
