#!/usr/bin/env bash
# A file in room R may include "S/..." only if layers.txt lists S after R (or S is R), and a room
# may list only rooms above its own line, so that there is no way round.
#TEST np: 1
#TEST timeout: 60
cd "$(dirname "$0")/../.." || exit 1
find src kernels data_pipeline jobs -name '*.[ch]' -o -name '*.def' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null |
    LC_ALL=C sort | xargs -r grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' /dev/null |
awk '
FNR == NR {
    sub(/#.*/, "")
    n = split($0, part, ":")
    if (n < 2) next
    room = part[1]; gsub(/ /, "", room)
    n = split(part[2], below, " ")
    for (i = 1; i <= n; i++) {
        if (!(below[i] in known)) { print FILENAME ":" FNR ": " room " lists " below[i] ", which is not above it"; bad = 1 }
        may[room, below[i]] = 1
    }
    known[room] = may[room, room] = 1
    next
}
{
    split($0, at, ":")
    n = split(at[1], path, "/"); room = path[1] == "src" ? path[2] : path[1]
    split($0, quoted, "\""); target = quoted[2]
    split(target, to, "/")
    why = ""
    if (!(room in known)) why = "room " room " has no line in tests/lint/layers.txt"
    else if (target !~ /\//) why = "say the room: \"" room "/" target "\""
    else if (target ~ /\.c$/) why = "includes a source file: " target
    else if (!((room, to[1]) in may)) why = room " must not include " target
    if (why) { print at[1] ":" at[2] ": " why; bad = 1 }
}
END { exit bad }' tests/lint/layers.txt -
