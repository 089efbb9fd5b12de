#!/usr/bin/env bash
# Standard streams that are closed, full, or left by their reader: the result is the same, byte for byte; what was asked for on
# stdout and could not be written is a failure.
#TEST np: 1
#TEST timeout: 240
set -euo pipefail
. "$(dirname "$0")/../jobs/lib.sh"
. "$(dirname "$0")/surroundings.sh"

make_inputs >"$dir/inputs.log" 2>&1

ends_with() # CODE WHAT: the command before, whose exit code is $rc
{
    [ $rc -eq "$1" ] || { echo "$2: exit code $rc, expected $1"; return 1; }
}

# The files of a result, but for those that say when or by which process they were made; weights by their values.
same_result()
{
    diff -rq -x ckpt -x metrics.jsonl -x 'report.*' -x results.json -x weights.h5 -x graft.json "$dir/whole" "$dir/out"
    [ ! -e "$dir/whole/weights.h5" ] || same_weights "$dir/whole/weights.h5" "$dir/out/weights.h5" 0
    rm -rf "$dir/out"
}

for p in $programs; do
    args_of $p "$dir/in" "$dir/out"
    [ $p = report ] && said=1 || said=0 # its table goes to stdout
    rc=0
    timeout -k 5 60 "$bin/graft-$p" "${args[@]}" >"$dir/log" 2>&1 || rc=$?
    ends_with 0 "graft-$p"
    rm -rf "$dir/whole"
    mv "$dir/out" "$dir/whole"

    rc=0
    timeout -k 5 60 "$bin/graft-$p" "${args[@]}" <&- >&- 2>&- || rc=$?
    ends_with $said "graft-$p, all streams closed"
    same_result

    rc=0
    timeout -k 5 60 "$bin/graft-$p" "${args[@]}" >/dev/full 2>/dev/full || rc=$?
    ends_with $said "graft-$p, no room for output"
    same_result

    rc=0
    timeout -k 5 60 "$bin/graft-$p" --help >/dev/full 2>"$dir/log" || rc=$?
    ends_with 1 "graft-$p --help >/dev/full"
    grep -q 'stdout cannot be written' "$dir/log"
    rc=0
    timeout -k 5 60 "$bin/graft-$p" --help 2>/dev/null >&- || rc=$?
    ends_with 1 "graft-$p --help >&-"
    timeout -k 5 60 "$bin/graft-$p" --help 2>/dev/null | head -n 1 >"$dir/log" || [ "${PIPESTATUS[0]}" -eq 1 ] # never by SIGPIPE
    grep -q "graft-$p" "$dir/log"
done

# A closed stream's number does not go to another file, into which the log would then be written.
args_of import "$dir/in" "$dir/out"
timeout -k 5 60 strace -f -e trace=write -o "$dir/trace" "$bin/graft-import" "${args[@]}" <&- >&- 2>&-
grep -q 'write([0-9]*, "graft-import' "$dir/trace"
if grep 'write([0-9]*, "graft-import.*= [0-9]' "$dir/trace"; then exit 1; fi

# The filter.
encode=("$bin/graft-tokenize" --encode "$dir/in/tokenizer.json")
for out in /dev/full ''; do
    rc=0
    if [ -n "$out" ]; then echo '{"text": "a"}' | "${encode[@]}" >"$out" 2>"$dir/log" || rc=$?
    else echo '{"text": "a"}' | "${encode[@]}" 2>"$dir/log" >&- || rc=$?; fi
    ends_with 1 "--encode, output '$out'"
    grep -q 'standard output' "$dir/log"
done
