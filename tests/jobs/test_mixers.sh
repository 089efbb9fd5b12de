#!/usr/bin/env bash
# Every type of mixer through the stages: converted with its options, aligned by 1 and 2 ranks, exported, and the export found sound and
# written in hybrid-model-factory's words. Options that no layer has a use for, or that contradict each other, are refused.
#
# Tolerances: as in test_pipeline.sh.
#TEST np: 1
#TEST timeout: 240
set -euo pipefail
. "$(dirname "$0")/lib.sh"

stages() # NAME PATTERN SYMBOLS CONFIG OPTION...: CONFIG is a line of the exported config.json
{
    local name=$1 pattern=$2 symbols=$3 config=$4
    shift 4
    graft 1 convert run.out="$dir/$name" model.weights="$dir/teacher" convert.pattern="$pattern" "$@"
    for np in 1 2; do
        graft $np align run.out="$dir/$name-$np" model.weights="$dir/$name" teacher.weights="$dir/teacher" $tiny train.steps=8 optim.lr=2e-3
    done
    same_metrics "$dir/$name-2/metrics.jsonl" "$dir/$name-1/metrics.jsonl" 1e-4 1e-5
    losses "$dir/$name-1/metrics.jsonl" | awk -v name="$name" '
        { last = $2 } NR == 1 { first = $2 } END { print name ": loss " first " to " last; exit !(last < first) }'
    graft 1 export run.out="$dir/$name-hf" model.weights="$dir/$name-1"
    grep -qF "\"hybrid_override_pattern\": \"$symbols\"" "$dir/$name-hf/config.json"
    grep -qF "$config" "$dir/$name-hf/config.json"
    graft 1 verify "$dir/$name-hf" "$dir/$name-1"
}

refused() # WHAT_IT_SAYS ARGUMENT...
{
    local says=$1 rc=0
    shift
    graft 1 convert run.out="$dir/refused" model.weights="$dir/teacher" "$@" >"$dir/log" 2>&1 || rc=$?
    [ $rc -eq 2 ] && grep -qF -- "$says" "$dir/log" || { echo "convert $*: exit $rc"; cat "$dir/log"; exit 1; }
}

make_corpus
make_model

stages gdn '(gdn,attn)' 'GDN-*-GDN-*' '"allow_neg_eigval": true' mixer.gdn_neg_eigval=true
stages gka '(gka,attn)' 'GKA-*-GKA-*' '"num_iter": 20' mixer.gka_iterations=20 mixer.gka_v_conv=false
stages mamba2 '(mamba2,attn)' 'M2-*-M2-*' '"use_qk_norm": true' mixer.a_min=1 mixer.dt_max=0.2
stages mamba2-llama '(mamba2,attn)' 'M2-*-M2-*' '"use_qk_norm": false' mixer.mamba2_init=mamba_in_the_llama
stages mamba3 '(mamba3,attn)' 'M3-*-M3-*' '"rope_fraction": 0.5' mixer.dt_max=0.2
stages mamba3-mimo '(mamba3,attn)' 'M3-*-M3-*' '"mimo_rank": 2' mixer.mamba3_mimo_rank=2 mixer.mamba3_rope_fraction=1 mixer.mamba3_outproj_norm=true
stages swa '(swa,attn)' 'SWA-*-SWA-*' '"window_size": 3' mixer.swa_window=3
stages bmojo '(bmojo,swa)' 'BMF-SWA-BMF-SWA' '"ssm_mixer": "gdn"' mixer.bmojo_window=9 mixer.swa_window=3 mixer.gdn_neg_eigval=true
stages bmojo-untied '(bmojo,attn)' 'BMF-*-BMF-*' '"tie_attn_weights": false' mixer.bmojo_window=9 mixer.bmojo_inner=mamba2 mixer.bmojo_tied=false

refused 'mixer.a_min = 3 is larger than mixer.a_max = 2' convert.pattern='(gdn,attn)' mixer.a_min=3 mixer.a_max=2
refused 'mixer.dt_min = 1 is larger than mixer.dt_max = 0.1' convert.pattern='(gdn,attn)' mixer.dt_min=1
refused 'mixer.mamba2_init is given, but no layer is mamba2' convert.pattern='(gdn,attn)' mixer.mamba2_init=mamba_in_the_llama
refused 'mixer.swa_sink is given, but no layer is swa' convert.pattern='(bmojo,attn)' mixer.swa_sink=4
refused 'mixer.gdn_neg_eigval is given, but no layer is gdn' convert.pattern='(bmojo,attn)' mixer.bmojo_inner=mamba2 mixer.gdn_neg_eigval=true

# A state that hybrid-model-factory does not know stays here.
graft 1 convert run.out="$dir/small" model.weights="$dir/teacher" convert.pattern='(mamba2,attn)' mixer.mamba2_state=8
rc=0
graft 1 export run.out="$dir/small-hf" model.weights="$dir/small" >"$dir/log" 2>&1 || rc=$?
[ $rc -eq 2 ] && grep -q 'mixer.mamba2_state is not its default' "$dir/log" || { echo "export: exit $rc"; cat "$dir/log"; exit 1; }

# hybrid-model-factory has no sinks: such a model would be another one there.
graft 1 convert run.out="$dir/sinks" model.weights="$dir/teacher" convert.pattern='(swa,attn)' mixer.swa_sink=4
rc=0
graft 1 export run.out="$dir/sinks-hf" model.weights="$dir/sinks" >"$dir/log" 2>&1 || rc=$?
[ $rc -eq 2 ] && grep -q 'mixer.swa_sink is not its default' "$dir/log" || { echo "export: exit $rc"; cat "$dir/log"; exit 1; }
! ls "$dir"/sinks-hf*/*.safetensors 2>/dev/null
