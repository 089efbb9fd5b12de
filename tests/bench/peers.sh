#!/usr/bin/env bash
# A virtual environment with what the benchmark compares with: torch and transformers, from PyPI.
#
#   tests/bench/peers.sh DIR
#
# About 6 GB on disk, most of it libraries for GPUs that the CPU comparison does not load. Already there: nothing to do.
set -eu
dir=${1:?usage: peers.sh DIR}

have() { "$dir/bin/python" -c 'import torch, transformers, numpy' 2>/dev/null; }

if ! have; then
    python3 -m venv "$dir" || { echo "peers: no python3 -m venv: install python3-venv" >&2; exit 1; }
    "$dir/bin/pip" install --quiet --disable-pip-version-check numpy torch transformers
    have || { echo "peers: $dir does not import torch and transformers" >&2; exit 1; }
fi
"$dir/bin/python" - <<'PY'
import numpy, torch, transformers
print(f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {numpy.__version__}")
PY
