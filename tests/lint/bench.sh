#!/usr/bin/env bash
# The ROW block of every row of the benchmark can be read, and its id is its own.
#TEST np: 1
#TEST timeout: 60
cd "$(dirname "$0")/../.." || exit 1
list=$(tests/bench/bench.py --list) || exit 1
rows=$(ls tests/bench/row_* | wc -l)
[ "$(cut -d' ' -f1 <<<"$list" | sort -u | wc -l)" = "$rows" ] || { echo "tests/bench: $rows rows, but not as many ids"; exit 1; }
for f in tests/bench/row_*; do
    peer=$(sed -n 's/^peer: *\([^ ]*\).*/\1/p' "$f")
    [ -z "$peer" ] || [ -e "tests/bench/$peer" ] || [ -e "tests/bench/$peer.c" ] || { echo "$f: no such peer: $peer"; exit 1; }
done
