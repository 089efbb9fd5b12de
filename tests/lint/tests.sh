#!/usr/bin/env bash
# Every test says how it is run, and lies where tests/run.sh looks.
#TEST np: 1
#TEST timeout: 60
cd "$(dirname "$0")/../.." || exit 1
kinds=$(sed -n 's/^kinds="\([^"]*\)".*/\1/p' tests/run.sh)
[ -n "$kinds" ] || { echo "tests/run.sh: no line kinds=\"...\""; exit 1; }
bad=0
complain() { echo "$1:1: $2"; bad=1; }

for f in tests/*/test_*.c tests/*/test_*.sh tests/lint/*.sh; do
    [ -e "$f" ] || continue
    kind=${f#tests/} kind=${kind%%/*}
    case " $kinds lint " in
    *" $kind "*) ;;
    *) complain "$f" "tests/run.sh knows no kind '$kind'" ;;
    esac
    case $f in
    *.c)  block=$(sed -n '/^\/\*TEST/,/\*\//p' "$f") ;;
    *.sh) block=$(sed -n 's/^#TEST //p' "$f") ;;
    esac
    [ -n "$block" ] || { complain "$f" "no TEST block (see tests/run.sh)"; continue; }
    grep -qE '^np: [0-9]+( +[0-9]+)*$' <<<"$block" || complain "$f" "TEST block: np: a list of rank counts"
    grep -qE '^timeout: [0-9]+$' <<<"$block" || complain "$f" "TEST block: timeout: seconds"
    ! grep -vqE '^(np|timeout): |^lane: beside$|^[^a-z]|^$' <<<"$block" || complain "$f" "TEST block: np, timeout, and maybe lane: beside"
done
exit $bad
