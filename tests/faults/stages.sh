# What the fault tests of whole stages share: a pipeline small enough to run in seconds, an undisturbed run of it to compare with, and what
# "equal" means for each product. Source it; every path lies in GR_TEST_DIR. SEED chooses what is drawn.
. "$(dirname "${BASH_SOURCE[0]}")/../jobs/lib.sh"

stages="import tokenize teacher convert align distill extend evaluate export"
gold=$dir/golden try=$dir/try log=$dir/log calls=$dir/calls
inject=$GR_BUILD/tests/faults/drive_inject
steps=20 every=6 # of the training stages: checkpoints at 6, 12, 18, 20
bad=0
SEED=${SEED:-${GR_SEED:-1}} RANDOM=${SEED:-1}

# One thread per rank, so that products which must not depend on the number of ranks can be compared bit for bit.
export OMP_NUM_THREADS=1
export OMPI_MCA_orte_tmpdir_base=$dir/ompi OMPI_MCA_btl_vader_backing_directory=$dir/shm
mkdir -p "$dir/ompi" "$dir/shm" "$gold"

complain() # MESSAGE...
{
    echo "FAILED (SEED=$SEED): $*"
    sed 's/^/    /' "$log" | tail -n 12
    bad=$((bad + 1))
    [ $bad -lt 8 ] || exit 1
}

skip() # MESSAGE
{
    echo "$1"
    exit 77
}

# What is drawn goes to a variable: a subshell has random numbers of its own.
draw() # VARIABLE N: a number below N
{
    printf -v "$1" %d $(((RANDOM << 15 | RANDOM) % $2))
}

pick() # VARIABLE WORD...: one of them
{
    local variable=$1 turn
    shift
    draw turn $#
    shift "$turn"
    printf -v "$variable" %s "$1"
}

nth_stage() # VARIABLE N: in turn
{
    local list=($stages)
    printf -v "$1" %s "${list[$2 % ${#list[@]}]}"
}

is_training() # STAGE
{
    case $1 in align | distill | extend) ;; *) return 1 ;; esac
}

# ---- the pipeline ----------------------------------------------------------------------------------

# Sets argv: STAGE writes to ./STAGE from what the golden run made. All inputs are absolute and run.out is relative: the configuration that a
# product records is the same wherever it is made.
arguments() # STAGE
{
    local tokens="data.shards=$gold/tokenize data.context=48"
    local training="$tokens data.micro_batch=2 train.batch=6 train.log_every=1000 train.steps=$steps checkpoint.every=$every"

    case $1 in
    import)   argv=(import.model="$gold/hf") ;;
    tokenize) argv=(tokenize.inputs="$gold/text" tokenize.document=paragraph tokenize.tokenizer="$top/configs/demo/tokenizer.json") ;;
    teacher)  argv=(model.weights="$gold/import" logits.k=8 $tokens) ;;
    convert)  argv=(model.weights="$gold/import" convert.pattern='(attn,gdn)') ;;
    align)    argv=(model.weights="$gold/convert" teacher.weights="$gold/import" $training optim.lr=2e-3) ;;
    distill)  argv=(model.weights="$gold/align" distill.logits="$gold/teacher" $training optim.lr=1e-3) ;;
    extend)   argv=(start.weights="$gold/distill" $training optim.lr=1e-3) ;;
    evaluate) argv=(model.weights="$gold/extend" evaluate.teacher="$gold/import" evaluate.shards="$gold/tokenize"
                    evaluate.context=48 evaluate.micro_batch=3) ;;
    export)   argv=(model.weights="$gold/distill") ;;
    esac
    argv=("$bin/graft-$1" run.out="$1" "${argv[@]}")
}

# launch NP STAGE [WRAPPER...]: in $try, to $log; exit code in $rc. NP 0: one process without a launcher.
launch()
{
    local np=$1 stage=$2 argv start=()
    shift 2
    arguments "$stage"
    [ "$np" = 0 ] || start=(mpirun -n "$np")
    rc=0
    (cd "$try" && exec timeout -k 5 60 "${start[@]}" "$@" "${argv[@]}") >"$log" 2>&1 </dev/null || rc=$?
}

# What the first stages read: text in three files, and a Transformer in HuggingFace's files, trained for a moment so that it is not noise.
make_inputs()
{
    mkdir -p "$gold/text"
    awk -v to="$gold/text/part" 'NR % 70 == 1 { n++ } { print > (to n ".txt") }' "$top/LICENSE"
    cat >"$gold/model.json" <<'JSON'
{"model_type": "qwen3", "vocab_size": 2048, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
 "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000,
 "hidden_act": "silu", "tie_word_embeddings": true, "initializer_range": 0.05}
JSON
    local tokenizer=$top/configs/demo/tokenizer.json
    graft 1 tokenize run.out="$gold/tokens" tokenize.inputs="$gold/text" tokenize.document=paragraph tokenize.tokenizer="$tokenizer" &&
        graft 2 extend run.out="$gold/start" start.config="$gold/model.json" start.tokenizer="$tokenizer" data.shards="$gold/tokens" \
            data.context=48 data.micro_batch=2 train.batch=6 train.steps=20 optim.lr=3e-3 &&
        graft 1 export run.out="$gold/hf" model.weights="$gold/start"
}

# All stages, undisturbed, on two ranks. ms[STAGE]: milliseconds it took; number[STAGE-RANK]: calls by
# which that rank changed files, listed in $calls-STAGE-RANK.
declare -A ms number
golden()
{
    local stage t0
    make_inputs >"$log" 2>&1 || { complain "the inputs of the pipeline"; exit 1; }
    try=$gold
    for stage in tokenize import teacher convert align distill extend evaluate export; do
        t0=${EPOCHREALTIME/./}
        launch 2 "$stage" "$inject" 0 "$gold" list 0 "$calls-$stage-0" "$inject" 1 "$gold" list 0 "$calls-$stage-1"
        [ $rc != 77 ] || skip "$(tail -n 1 "$log")"
        [ $rc = 0 ] || { complain "golden $stage: exit $rc"; exit 1; }
        ms[$stage]=$(((${EPOCHREALTIME/./} - t0) / 1000))
        number[$stage-0]=$(wc -l <"$calls-$stage-0") number[$stage-1]=$(cat "$calls-$stage-1" 2>/dev/null | wc -l)
        [ "${number[$stage-0]}" -gt 5 ] || { complain "golden $stage: only ${number[$stage-0]} calls were seen"; exit 1; }
    done
    try=$dir/try
}

fresh()
{
    rm -rf "$try"
    mkdir "$try"
}

# ---- what equal means --------------------------------------------------------------------------------

# The product of STAGE in $try is golden's. With a TOLERANCE: made on another number of ranks.
#
# import, convert: every tensor bit for bit, on any number of ranks (the file says besides when it was made).
# tokenize, teacher, export: every byte of every file but the record, on any number of ranks: nothing in them depends on time or place.
# align, distill, extend: every tensor, and every loss of metrics.jsonl, bit for bit; on other ranks the losses of the same steps to 1e-4
#     (sums over ranks are made in another order, and training amplifies it; other data would differ by far more), which is the data order.
# evaluate: every number but the seconds; on other ranks to 1e-4.
same() # STAGE [TOLERANCE]
{
    local stage=$1 tolerance=${2:-0}
    case $stage in
    import | convert) same_weights "$try/$stage/weights.h5" "$gold/$stage/weights.h5" 0 ;;
    tokenize | teacher | export) diff -r -x graft.json -x '*.lock' -x '.tmp-*' "$gold/$stage" "$try/$stage" ;;
    align | distill | extend)
        [ "$tolerance" != 0 ] || same_weights "$try/$stage/weights.h5" "$gold/$stage/weights.h5" 0 || return 1
        [ -s "$try/$stage/weights.h5" ] && same_metrics "$try/$stage/metrics.jsonl" "$gold/$stage/metrics.jsonl" "$tolerance" ;;
    evaluate) same_results "$try/$stage/results.json" "$gold/$stage/results.json" "$tolerance" ;;
    esac >>"$log" 2>&1
}

same_results() # A B TOLERANCE
{
    paste -d' ' <(results_of "$1") <(results_of "$2") | awk -v tol="$3" '
        { n++; d = ($2 - $4) / $4; if (d < 0) d = -d; if ($1 != $3 || d > tol) { print "results: " $0; bad = 1 } }
        END { exit bad || n < 4 }'
}

results_of() # FILE
{
    sed -n 's/^ *"\(perplexity\|loss\|kl\|tokens\|context\)": \([^,]*\),*$/\1 \2/p' "$1"
}

# A stage's product has appeared under its name: a run after this one would take it for complete.
appeared() # STAGE
{
    case $1 in
    tokenize | teacher) [ -e "$try/$1/index.json" ] ;;
    evaluate) [ -e "$try/$1/results.json" ] ;;
    export) [ -e "$try/$1" ] ;;
    *) [ -e "$try/$1/weights.h5" ] ;;
    esac
}

# Nothing that was being made is left after a run that succeeded.
tidy() # WHAT
{
    local left keep=()
    # A stage that keeps no record and holds no lock cannot tell its own leavings from what a twin is writing.
    [ -n "$(find "$try" -name graft.json)" ] || keep=(! -name '.tmp-*')
    left=$(find "$try" "$dir/shm" "${keep[@]}" \( -name '.tmp-*' -o -name '.del-*' -o -name '*.partial' -o -name 'bad-*' -o -path "$dir/shm/*" \) \
        -printf '%P ')
    [ -z "$left" ] || complain "$1: left behind: $left"
}

# ---- processes ------------------------------------------------------------------------------------------

# Processes of this test's programs that are alive, zombies aside
survivors()
{
    local p
    for p in $(grep -lszxF "GR_TEST_DIR=$dir" /proc/[0-9]*/environ | cut -d/ -f3); do
        case $(tr '\0' ' ' 2>/dev/null <"/proc/$p/cmdline") in mpirun* | orted* | "$bin"/graft-*) echo "$p" ;; esac
    done
}

no_orphans() # WHAT: within ten seconds, which is what a rank has to notice that mpirun died
{
    local i left
    for ((i = 0; i < 50; i++)); do
        left=$(survivors)
        [ -n "$left" ] || return 0
        sleep 0.2
    done
    complain "$1: still running after 10 s: $(ps -o pid=,stat=,args= -p "${left//$'\n'/,}")"
    kill -9 $left
}
