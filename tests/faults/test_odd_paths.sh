#!/usr/bin/env bash
# Directories with every character that a shell, YAML, printf or a glob might stumble over, and very long ones, work. A result
# that cannot be where it is wanted is an error of the configuration (2), and so is a name that is not UTF-8.
#TEST np: 1
#TEST timeout: 240
set -euo pipefail
. "$(dirname "$0")/../jobs/lib.sh"
. "$(dirname "$0")/surroundings.sh"

make_inputs >"$dir/inputs.log" 2>&1
mkdir "$dir/w"
cd "$dir/w"

# ---- odd, but allowed: relative, so that the leading dash is one -------------------------------------

part=$(printf 'd%.0s' {1..200})
for name in $'- a\'b"c#d=e:f%s%n$HOME~,\\*?[x]{y}\n\t\xc3\xa9 ' "$part/$part/$part/$part"; do
    mkdir -p "./$name"
    cp -rl "$dir/in/." "./$name/"
    for p in $programs; do
        args_of $p "$name" "$name/out-$p"
        code_of "$bin/graft-$p" "${args[@]}"
        demand 0 '' "graft-$p in an odd directory"
        [ -e "./$name/out-$p" ]
    done
done
[ "$(find . -mindepth 1 -maxdepth 1 -printf .)" = .. ] # nothing beside them

# ---- not allowed --------------------------------------------------------------------------------------

: >"$dir/file"
mkdir -m 755 "$dir/closed"
chmod 755 "$dir"
for p in $programs; do
    args_of $p "$dir/in" $'\xff\xfe'
    code_of "$bin/graft-$p" "${args[@]}"
    demand 2 'not UTF-8' "graft-$p: a name that is not UTF-8"

    args_of $p "$dir/in" "$(printf "$part/%.0s" {1..21})"
    code_of "$bin/graft-$p" "${args[@]}"
    demand 2 'longer than' "graft-$p: a path of 4221 bytes"

    args_of $p "$dir/in" "$dir/file/out"
    code_of "$bin/graft-$p" "${args[@]}"
    demand 2 "$dir/file.*[Nn]ot a directory" "graft-$p: a file in the way"

    args_of $p "$dir/in/nowhere" "$dir/out"
    code_of "$bin/graft-$p" "${args[@]}"
    demand 2 "$dir/in/nowhere.*No such file" "graft-$p: no input"
done

# ---- no permission: only root can become somebody else ---------------------------------------------------

umask 022
if [ "$(id -u)" -eq 0 ] && setpriv --reuid 65534 --clear-groups test -x "$bin/graft-import" -a -r "$dir/in/hf/config.json"; then
    for p in $programs; do
        args_of $p "$dir/in" "$dir/closed/out"
        code_of env HOME=/tmp setpriv --reuid 65534 --regid 65534 --clear-groups "$bin/graft-$p" "${args[@]}"
        demand 2 "$dir/closed.*Permission denied" "graft-$p: no permission"
    done
fi
[ -z "$(ls -A "$dir/closed")" ]
