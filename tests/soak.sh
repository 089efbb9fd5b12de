#!/usr/bin/env bash
# The fault tests of whole stages with random seeds, until the time is over: `make soak`.
#
#   SOAK_MINUTES   how long (default 60); the round that has begun is finished
#   SEED           of the first round (default: random); a round's seed is printed before it starts
#   BUILD          where make put the programs (default build)
#
# A round is one pass over tests/faults/test_stage_*.sh with about ten times what `make check` does; the same numbers and seed repeat it, but for
# moments that are times. A round of a given seed, and only one test of it:  SEED=17 MOMENTS=100 tests/run.sh --slower 10 test_stage_kill
set -u
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build} minutes=${SOAK_MINUTES:-60}
seed=${SEED:-$((RANDOM << 15 | RANDOM))}
export MOMENTS=${MOMENTS:-100} ERRORS=${ERRORS:-150} DISKS=${DISKS:-30} DAMAGES=${DAMAGES:-1000} PRODUCTS=${PRODUCTS:-100} STAGES=${STAGES:-all}
export GR_TEST_SAYS=survived: # a test says so at its end

declare -A sum
failed=0 rounds=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

# Adds up "survived: 41 kills (3 came too late), 12 restarts ..." by the word after each number.
add_up()
{
    local n word
    while read -r n word; do sum[$word]=$((${sum[$word]:-0} + n)); done < <(grep '^survived: ' "$log" | grep -oE '[0-9]+ [a-z]+')
}

while [ $SECONDS -lt $((minutes * 60)) ] && [ $failed = 0 ]; do
    echo "---- SEED=$seed, after $((SECONDS / 60)) min"
    SEED=$seed tests/run.sh --kinds faults --build "$build" --slower 30 test_stage_ | tee "$log"
    [ "${PIPESTATUS[0]}" = 0 ] || failed=1
    add_up
    rounds=$((rounds + 1)) seed=$((seed + 1))
done
echo "$rounds rounds in $((SECONDS / 60)) min: $(for word in "${!sum[@]}"; do printf '%s %s, ' "${sum[$word]}" "$word"; done)$([ $failed = 0 ] && echo 'all survived' || echo "SEED=$((seed - 1)) FAILED")"
exit $failed
