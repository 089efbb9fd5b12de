#!/usr/bin/env bash
# Logits of tiny models of every family equal those transformers computed (make_model_cases.py), for weights in fp32, bf16 and fp16, one file
# or several, on 1 and 3 ranks; and those of a hybrid what a float64 transcription computed from its exported files (make_hybrid_case.py). Both sides compute in fp32 in different orders: 2e-5 relative to the largest logit; recorded values have 6 digits.
#TEST np: 1 3
#TEST timeout: 120
set -euo pipefail
here=$(dirname "$0") bin=$GR_BUILD/bin
for case in "$here"/models/*/; do
    name=$(basename "$case")
    mpirun -n "$GR_NP" "$bin/graft-import" run.out="$GR_TEST_DIR/$name.h5" import.model="$case"
    mpirun -n "$GR_NP" "$bin/graft-evaluate" run.out="$GR_TEST_DIR/$name" model.weights="$GR_TEST_DIR/$name.h5" \
        evaluate.task=logits evaluate.ids="$case/ids.json"
    "$GR_BUILD/tests/golden/drive_logits" "$GR_TEST_DIR/$name/logits.h5" "$case/expected.json" 2e-5
    # and out again: the same tensors, bit for bit
    mpirun -n "$GR_NP" "$bin/graft-export" run.out="$GR_TEST_DIR/$name-hf" model.weights="$GR_TEST_DIR/$name.h5" export.shard_mib=1
    "$bin/graft-import" run.out="$GR_TEST_DIR/$name-again.h5" import.model="$GR_TEST_DIR/$name-hf"
    "$GR_BUILD/tests/jobs/drive_weights" "$GR_TEST_DIR/$name.h5" "$GR_TEST_DIR/$name-again.h5" 0
done

hybrid=$GR_TEST_DIR/hybrid
mpirun -n "$GR_NP" "$bin/graft-convert" run.out="$hybrid.h5" model.weights="$GR_TEST_DIR/qwen3_tied.h5" convert.pattern='(gdn,attn)' \
    convert.conv_init=normal
mpirun -n "$GR_NP" "$bin/graft-evaluate" run.out="$hybrid" model.weights="$hybrid.h5" evaluate.task=logits \
    evaluate.ids="$here/models/qwen3_tied/ids.json"
"$GR_BUILD/tests/golden/drive_logits" "$hybrid/logits.h5" "$here/hybrid.json" 2e-5
