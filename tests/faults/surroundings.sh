# Every program once, on tiny inputs: what the tests of odd surroundings share. Source it after tests/jobs/lib.sh.
programs="import tokenize teacher convert align distill extend evaluate export report"

make_inputs() # of all programs, in $dir/in
{
    local at=$dir/in
    mkdir "$at"
    make_corpus
    write_model_json
    graft 1 extend run.out="$at/teacher" start.config="$dir/model.json" start.tokenizer="$top/configs/demo/tokenizer.json" $tiny train.steps=2
    mv "$dir/shards" "$at/"
    graft 1 convert run.out="$at/hybrid" model.weights="$at/teacher" convert.pattern='(attn,gdn)'
    graft 1 teacher run.out="$at/logits" model.weights="$at/teacher" data.shards="$at/shards" data.context=48 logits.k=8
    graft 1 export run.out="$at/hf" model.weights="$at/teacher"
    graft 1 evaluate run.out="$at/eval" model.weights="$at/hybrid" evaluate.shards="$at/shards"
    cp "$top/LICENSE" "$at/text"
    cp "$top/configs/demo/tokenizer.json" "$at/"
}

# What PROGRAM is told, in the array `args`: inputs below IN, result OUT
args_of() # PROGRAM IN OUT
{
    args=("run.out=$3")
    case $1 in
    import)   args+=("import.model=$2/hf") ;;
    tokenize) args+=("tokenize.inputs=$2/text" "tokenize.tokenizer=$2/tokenizer.json") ;;
    teacher)  args+=("model.weights=$2/teacher" "data.shards=$2/shards" data.context=48 logits.k=8) ;;
    convert)  args+=("model.weights=$2/teacher" 'convert.pattern=(attn,gdn)') ;;
    align)    args+=("model.weights=$2/hybrid" "teacher.weights=$2/teacher") ;;
    distill)  args+=("model.weights=$2/hybrid" "distill.logits=$2/logits") ;;
    extend)   args+=("start.weights=$2/hybrid") ;;
    evaluate) args+=("model.weights=$2/hybrid" "evaluate.shards=$2/shards") ;;
    export)   args+=("model.weights=$2/hybrid") ;;
    report)   args+=("report.stages=pretrain=$2/teacher" "report.models=hybrid=$2/eval") ;;
    esac
    case $1 in
    align | distill | extend) args+=("data.shards=$2/shards" data.context=48 data.micro_batch=2 train.batch=4 train.steps=2) ;;
    esac
}

# Exit code of a command, its output in $dir/log
code_of() # COMMAND...
{
    rc=0
    timeout -k 5 60 "$@" >"$dir/log" 2>&1 </dev/null || rc=$?
}

demand() # CODE PATTERN WHAT: the last command ended so, and its log has the pattern
{
    [ $rc -eq "$1" ] && grep -qae "$2" "$dir/log" && return
    echo "$3: exit code $rc, expected $1 and '$2':"
    tail -5 "$dir/log"
    return 1
}
