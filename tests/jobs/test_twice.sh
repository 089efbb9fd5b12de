#!/usr/bin/env bash
# Every stage, run again: with nothing to do it does nothing; another configuration or input is refused by name; of two at once one works; a lock
# that is held is waited for, then 75; killed, it is completed by the same command, to the same content.
#TEST np: 1
#TEST timeout: 180
set -euo pipefail
. "$(dirname "$0")/lib.sh"
stages="import tokenize teacher convert align distill extend evaluate export"

# ---- what they work on: each stage has copies of its own, to be spoilt --------------------------------

base=$dir/base

small=${tiny//$dir\/shards/$base/shards}

make_inputs()
{
    local s
    dir=$base make_corpus
    cat >"$base/model.json" <<'JSON'
{"model_type": "qwen3", "vocab_size": 2048, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
 "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000,
 "hidden_act": "silu", "tie_word_embeddings": true, "initializer_range": 0.05}
JSON
    "$bin/graft-extend" run.out="$base/teacher" start.config="$base/model.json" start.tokenizer="$top/configs/demo/tokenizer.json" $small train.steps=2
    "$bin/graft-convert" run.out="$base/hybrid" model.weights="$base/teacher" convert.pattern='(attn,gdn)'
    "$bin/graft-teacher" run.out="$base/logits" model.weights="$base/teacher" data.shards="$base/shards" data.context=48 logits.k=4
    "$bin/graft-import" run.out="$base/other" import.model="$top/tests/golden/models/qwen3_tied"
    for s in $stages; do
        mkdir -p "$dir/$s"
        cp -r "$base/teacher" "$base/hybrid" "$dir/$s/"
        cp -r "$top/tests/golden/models/qwen3_tied" "$dir/$s/hf"
        cp "$top/LICENSE" "$dir/$s/text"
    done
}

# STAGE OUT: sets `arguments`
command_of()
{
    local s=$1 d=$dir/$1
    arguments=(run.out="$2")
    case $s in
    import)   arguments+=(import.model="$d/hf") ;;
    tokenize) arguments+=(tokenize.inputs="$d/text" tokenize.document=paragraph tokenize.unit_mib=1 tokenize.tokenizer="$top/configs/demo/tokenizer.json") ;;
    teacher)  arguments+=(model.weights="$d/teacher" data.shards="$base/shards" data.context=48 logits.k=4) ;;
    convert)  arguments+=(model.weights="$d/teacher" convert.pattern='(attn,gdn)') ;;
    align)    arguments+=(model.weights="$d/hybrid" teacher.weights="$base/teacher" $small train.steps=3) ;;
    distill)  arguments+=(model.weights="$d/hybrid" distill.logits="$base/logits" $small train.steps=3) ;;
    extend)   arguments+=(start.weights="$d/hybrid" $small train.steps=3) ;;
    evaluate) arguments+=(model.weights="$d/hybrid" evaluate.shards="$base/shards" evaluate.teacher="$base/teacher" evaluate.context=48 evaluate.tokens=2000) ;;
    export)   arguments+=(model.weights="$d/hybrid" export.shard_mib=1) ;;
    esac
}

declare -A key=([import]=import.model [tokenize]=tokenize.inputs [extend]=start.weights) # the input that is spoilt; else model.weights
declare -A config=([import]=import.model=elsewhere [tokenize]=tokenize.eos= [teacher]=logits.k=3 [convert]=convert.seed=2 [align]=optim.lr=1e-5
    [distill]=distill.kl=0.5 [extend]=train.seed=2 [evaluate]=evaluate.context=32 [export]=export.dtype=bf16)
declare -A free=([align]=heldout.every=3 [distill]=checkpoint.every=3 [extend]=train.log_every=3) # besides run.threads

input_of() # STAGE: the path of the input that is spoilt
{
    case $1 in
    import) echo "$dir/$1/hf" ;;
    tokenize) echo "$dir/$1/text" ;;
    teacher | convert) echo "$dir/$1/teacher" ;;
    *) echo "$dir/$1/hybrid" ;;
    esac
}

spoil() # STAGE: something else of the same kind, where a file is one of the same size
{
    local input
    input=$(input_of "$1")
    case $1 in
    import) printf '\x11' | dd of="$input/model.safetensors" bs=1 seek=$(($(stat -c %s "$input/model.safetensors") - 400)) conv=notrunc status=none ;;
    tokenize) sed -i '0,/Licensor/s//Licenser/' "$input" ;;
    *) cp "$base/other/weights.h5" "$input/weights.h5" ;;
    esac
}

# ---- what is demanded -----------------------------------------------------------------------------------

complain() { echo "$stage: $*"; tail -n 5 "$dir/$stage".log*; exit 1; }

# expect CODE TEXT RANKS ARGUMENT...: this exit code, and TEXT in the log
expect()
{
    local code=$1 text=$2 np=$3 rc=0
    shift 3
    graft "$np" "$stage" "${arguments[@]}" "$@" >"$dir/$stage.log" 2>&1 || rc=$?
    [ $rc -eq "$code" ] || complain "exit code $rc, expected $code, with $*"
    grep -q -e "$text" "$dir/$stage.log" || complain "no '$text', with $*"
}

files_of() # DIRECTORY: every file with size, time and bytes
{
    find "$1" -type f -printf '%P %s %T@\n' -exec cksum {} + | sort
}

content_of() # DIRECTORY: what was made, whoever made it, and when
{
    if [ -e "$1/results.json" ]; then grep -E '"(perplexity|kl)"' "$1/results.json"; else grep -o '"content":"[0-9a-f]*","inputs"' "$1/graft.json"; fi
}

two_at_once()
{
    local a=0 b=0 first
    graft 2 "$stage" "${arguments[@]}" >"$dir/$stage.log1" 2>&1 &
    first=$!
    graft 2 "$stage" "${arguments[@]}" >"$dir/$stage.log2" 2>&1 || b=$?
    wait $first || a=$?
    [ $a -eq 0 ] && [ $b -eq 0 ] || complain "two at once: $a and $b"
    [ "$(cat "$dir/$stage".log[12] | grep -c 'is complete: nothing to do')" -eq 1 ] || complain "two at once: who made it?"
    [ ! -e "$out.lock" ] || complain "the lock stays"
    rm "$dir/$stage".log[12]
}

# Kill a rank as soon as there is something to kill, then give the same command again.
killed()
{
    local pid victim
    graft 2 "$stage" "${arguments[@]}" >"$dir/$stage.log" 2>&1 &
    pid=$!
    until [ -e "$out.lock" ] || ! kill -0 $pid 2>/dev/null; do sleep 0.01; done
    for victim in $(cat /proc/$pid/task/*/children 2>/dev/null); do # mpirun, when bash did not become it
        kill -9 $(cat /proc/"$victim"/task/*/children 2>/dev/null) 2>/dev/null || true
    done
    wait $pid 2>/dev/null && : >"$dir/$stage/missed" # it was faster
    [ ! -e "$out.lock" ] || [ ! -e "$out/graft.json" ] || complain "killed, and complete"
    expect 0 . 2
}

check() # STAGE
{
    stage=$1 out=$dir/$1/out
    local whole=$out before input
    command_of "$stage" "$out"
    input=$(input_of "$stage")

    two_at_once
    before=$(files_of "$out")
    expect 0 'is complete: nothing to do' 2 run.threads=1 ${free[$stage]:-}
    expect 2 "made with another configuration: ${config[$stage]%%=*} was" 2 "${config[$stage]}"
    cp -r "$input" "$dir/$stage/kept"
    spoil "$stage"
    expect 2 "${key[$stage]:-model.weights} changed since" 2
    rm -r "$input"
    expect 0 "${key[$stage]:-model.weights} is gone since" 1
    mv "$dir/$stage/kept" "$input"
    [ "$before" = "$(files_of "$out")" ] || complain "a run with nothing to do changed something"

    out=$dir/$stage/again
    command_of "$stage" "$out"
    killed
    [ "$(content_of "$whole")" = "$(content_of "$out")" ] || complain "killed and completed, it is something else"
    [ -z "$(find "$dir/$stage" -name '.tmp-*' -o -name '*.partial' -o -name 'out.lock' -o -name 'again.lock')" ] || complain "something was left"
}

locked() # STAGE: somebody else works on it, for longer than anybody waits
{
    local rc=0 log=$dir/locked-$1.log
    command_of "$1" "$dir/$1/locked"
    "$bin/graft-$1" "${arguments[@]}" >"$log" 2>&1 || rc=$?
    [ $rc -eq 75 ] && grep -q 'another run works here' "$log" && [ ! -e "$dir/$1/locked" ] ||
        { echo "$1: locked: exit code $rc"; tail -n 3 "$log"; return 1; }
}

# ---- all of it ----------------------------------------------------------------------------------------------

make_inputs >"$dir/log" 2>&1 || { tail "$dir/log"; exit 1; }
waiting=() running=() bad=0
for s in $stages; do
    exec {fd}>"$dir/$s/locked.lock"
    flock $fd
    locked "$s" {fd}>&- &
    waiting+=($!)
done
for s in $stages; do
    (check "$s") &
    running+=($!)
    [ ${#running[@]} -lt 3 ] || { wait "${running[0]}" || bad=1; running=("${running[@]:1}"); }
done
for pid in "${running[@]}" "${waiting[@]}"; do wait "$pid" || bad=1; done

missed=$(find "$dir" -name missed | wc -l)
[ "$missed" -lt 5 ] || { echo "$missed of 9 were faster than the kill: too little was tested"; bad=1; }

# A record that was tampered with counts for nothing; a product that is gone is made again; another program's is refused.
sed -i 's/"program"/"pr0gram"/' "$dir/convert/out/graft.json"
stage=convert; command_of convert "$dir/convert/out"; expect 2 'graft.json' 1
rm "$dir/convert/again/weights.h5"
command_of convert "$dir/convert/again"; expect 0 'it is made again' 2
stage=export; command_of export "$dir/convert/again"; expect 2 'the product of graft-convert' 1

# Another file of the same content is the same input.
rm -r "$dir/align/hybrid"
"$bin/graft-convert" run.out="$dir/align/hybrid" model.weights="$base/teacher" convert.pattern='(attn,gdn)' >"$dir/log" 2>&1
stage=align; command_of align "$dir/align/out"; expect 0 'is complete: nothing to do' 2
exit $bad
