# What the job tests share: a model and a corpus small enough to train in a second, and ways to compare runs.
# Source it; every path lies in GR_TEST_DIR.
bin=$GR_BUILD/bin dir=$GR_TEST_DIR
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) top=$(cd "$here/../.." && pwd)
export GR_LEAKS=fatal
unset OMP_NUM_THREADS # each rank takes its share of the cores

graft() # RANKS PROGRAM ARGUMENT...
{
    local np=$1 program=$2
    shift 2
    mpirun -n "$np" "$bin/graft-$program" "$@"
}

# The metrics of two runs agree step by step: relative difference at most $3, at the first step $4 (default: the same).
same_metrics() # A.jsonl B.jsonl TOLERANCE [TOLERANCE_OF_THE_FIRST_STEP]
{
    paste -d' ' <(losses "$1") <(losses "$2") | awk -v tol="$3" -v first="${4:-$3}" '
        NF != 4 || $1 != $3 { print "steps differ: " $0; bad = 1; exit }
        { n++; d = ($2 - $4) / $4; if (d < 0) d = -d
          if (d > (n == 1 ? first : tol)) { printf "step %s: loss %s and %s differ by %.2e\n", $1, $2, $4, d; bad = 1 } }
        END { if (!n) { print "no steps"; bad = 1 }; exit bad }'
}

losses() # FILE: "step loss" per training step
{
    sed -n 's/^{"step":\([0-9]*\),"loss":\([^,]*\),.*/\1 \2/p' "$1"
}

same_weights() # A.h5 B.h5 TOLERANCE
{
    "$GR_BUILD/tests/jobs/drive_weights" "$1" "$2" "$3"
}

make_corpus() # text of the licence, one document a paragraph
{
    graft 1 tokenize run.out="$dir/shards" tokenize.inputs="$top/LICENSE" tokenize.document=paragraph \
        tokenize.tokenizer="$top/configs/demo/tokenizer.json"
}

write_model_json()
{
    cat >"$dir/model.json" <<'JSON'
{"model_type": "qwen3", "vocab_size": 2048, "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000,
 "hidden_act": "silu", "tie_word_embeddings": true, "initializer_range": 0.05}
JSON
}

make_model() # Transformer, trained for a moment so that it is not noise
{
    write_model_json
    graft 2 extend run.out="$dir/teacher" start.config="$dir/model.json" start.tokenizer="$top/configs/demo/tokenizer.json" $tiny \
        train.steps=20 optim.lr=3e-3
}

make_hybrid()
{
    graft 1 convert run.out="$dir/hybrid" model.weights="$dir/teacher" convert.pattern='(attn,gdn)'
}

tiny="data.shards=$dir/shards data.context=48 data.micro_batch=2 train.batch=6 train.log_every=1000 checkpoint.every=7"
