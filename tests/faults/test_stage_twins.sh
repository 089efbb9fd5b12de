#!/usr/bin/env bash
# Two instances of a stage at once, in the same place: started together, or the second while the first is stopped in the middle of its work. The
# second waits ten seconds for the first, and leaves with 75 or finds the product complete; the first does not notice. Then a third, after all.
#
#   SEED     what is drawn (default 1)
#   STAGES   which (default: three that the seed chooses, one of them training); all
#TEST np: 1
#TEST timeout: 240
. "$(dirname "$0")/stages.sh"
golden

# begin LOG STAGE: in the background; $pid is mpirun's
begin()
{
    local argv
    arguments "$2"
    (cd "$try" && exec mpirun -n 2 "${argv[@]}") >"$1" 2>&1 </dev/null &
    pid=$!
}

finish() # PID: to $rc
{
    rc=0
    wait "$1" || rc=$?
}

ranks_of() # MPIRUN_PID
{
    cat /proc/"$1"/task/*/children 2>/dev/null
}

# A stage that holds a lock refuses a twin. Where none does so yet, both do the same and publish it by one rename each.
ended_well() # RC WHAT
{
    case $1 in
    0) ;;
    75) grep -q 'another run works here' "$log" || complain "$2: exit 75, and the holder is not named" ;;
    *) complain "$2: exit $1" ;;
    esac
}

together() # STAGE
{
    local stage=$1 first second
    fresh
    begin "$dir/first" "$stage"
    first=$pid
    begin "$log" "$stage"
    second=$pid
    finish $second
    ended_well $rc "$stage, two at once: the second"
    second=$rc
    finish $first
    cp "$dir/first" "$log"
    ended_well $rc "$stage, two at once: the first"
    [ $((rc * second)) = 0 ] || complain "$stage, two at once: none of them worked"
    same "$stage" || complain "$stage, two at once: another product"
}

# The first is stopped as soon as it has made something, as on a node that hangs; the second comes, and goes; the first goes on.
one_after_the_other() # STAGE
{
    local stage=$1 first t0 what="$1, the first stopped at work"
    fresh
    begin "$dir/first" "$stage"
    first=$pid
    while kill -0 $first 2>/dev/null && [ "$(find "$try" | wc -l)" -lt 4 ]; do sleep 0.01; done
    kill -STOP $(ranks_of $first) 2>/dev/null
    t0=$SECONDS
    launch 2 "$stage"
    ended_well $rc "$what: the second"
    [ $((SECONDS - t0)) -le 20 ] || complain "$what: the second took $((SECONDS - t0)) s"
    [ $rc = 0 ] || refused=$((refused + 1))
    kill -CONT $(ranks_of $first) 2>/dev/null
    finish $first
    [ $rc = 0 ] || { cp "$dir/first" "$log"; complain "$what: the first: exit $rc"; }
    same "$stage" || complain "$what: another product"
}

refused=0
list=()
for ((i = 0; i < 3; i++)); do nth_stage stage $((3 * i + SEED)); list+=("$stage"); done # one of each third: the second third trains
if [ "${STAGES:-}" = all ]; then list=($stages); fi
for stage in "${list[@]}"; do
    together "$stage"
    one_after_the_other "$stage"
    launch 2 "$stage"
    [ $rc = 0 ] || complain "$stage, afterwards: exit $rc"
    same "$stage" || complain "$stage, afterwards: another product"
    tidy "$stage, afterwards"
    no_orphans "$stage, afterwards"
done
echo "survived: ${#list[@]} pairs of twins, $refused refused"
[ $bad = 0 ]
