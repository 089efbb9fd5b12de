#!/usr/bin/env bash
# SmolLM2's set-up script (scripts/make_smollm2.py) turns a Llama as GGUF tells it into files that Graft reads: the recorded logits of
# a tiny model, and the recorded ids of a tokenizer of the same kind. Without GGUF, numpy or a network; needs python3.
#TEST np: 1
#TEST timeout: 60
set -euo pipefail
here=$(dirname "$0") bin=$GR_BUILD/bin dir=$GR_TEST_DIR
command -v python3 >/dev/null || { echo "no python3"; exit 77; }
python3 "$here/check_smollm2.py" "$dir"

"$bin/graft-import" run.out="$dir/model.h5" import.model="$dir/model"
"$bin/graft-evaluate" run.out="$dir/logits" model.weights="$dir/model.h5" evaluate.task=logits evaluate.ids="$here/models/llama_bf16/ids.json"
"$GR_BUILD/tests/golden/drive_logits" "$dir/logits/logits.h5" "$here/models/llama_bf16/expected.json" 2e-5

"$bin/graft-tokenize" --encode "$dir/model/tokenizer.json" <"$dir/texts.jsonl" | diff - "$dir/ids.jsonl"
