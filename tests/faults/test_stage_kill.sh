#!/usr/bin/env bash
# kill -9 of a rank or of mpirun, at random moments of every stage; then the stage is started again, on the same number of ranks or another,
# at once, and sometimes killed once more while it recovers. It ends with the product of the undisturbed run (stages.sh says what equal means);
# it goes on from the newest checkpoint that was there; no process, no temporary and no shared memory is left.
#
# A moment is a time (a fraction of the undisturbed run's), or one of the calls by which a rank changes files, before it is made: most of
# what can be torn lies between two of them, and little of the time does.
#
#   SEED      what is drawn (default 1)
#   MOMENTS   how many (default 14; the first nine are one of each stage)
#TEST np: 1
#TEST timeout: 240
. "$(dirname "$0")/stages.sh"
golden

# The pid of rank $1 of the mpirun $2, or of mpirun itself when that rank does not exist yet
victim_pid()
{
    local children
    [ "$1" = mpirun ] || read -ra children < <(cat /proc/"$2"/task/*/children 2>/dev/null | tr '\n' ' ')
    echo "${children[$1]:-$2}" 2>/dev/null
}

# start NP STAGE [WRAPPER...]: like launch, but goes on at once; $pid is mpirun's.
start()
{
    local np=$1 stage=$2 argv
    shift 2
    arguments "$stage"
    (cd "$try" && exec mpirun -n "$np" "$@" "${argv[@]}") >"$log" 2>&1 </dev/null &
    pid=$!
}

# A second or two after a kill all ranks have left. But mpirun (Open MPI 4.1.4) now and then misses that a rank died, and spins in waitpid
# for ever; whoever started it then does what is done here. To $rc.
ended()
{
    local i
    for ((i = 0; i < 500; i++)); do
        kill -0 $pid 2>/dev/null || break
        sleep 0.02
    done
    if kill -0 $pid 2>/dev/null; then
        stuck=$((stuck + 1))
        # shellcheck disable=SC2046 # one word each
        kill -9 $pid $(cat /proc/$pid/task/*/children 2>/dev/null) 2>/dev/null
    fi
    rc=0
    { wait $pid || rc=$?; } 2>/dev/null
}

# One kill: $rc is how the run ended, 0 when it was over before.
strike() # STAGE NP VICTIM HOW AT
{
    local stage=$1 np=$2 victim=$3 how=$4 at=$5
    rm -f "$calls"
    if [ "$how" = call ]; then
        start "$np" "$stage" "$inject" "$victim" "$try" kill "$at" "$calls"
    else
        start "$np" "$stage"
        sleep "$(printf '%d.%03d' $((at / 1000)) $((at % 1000)))"
        kill -9 "$(victim_pid "$victim" $pid)" 2>/dev/null
    fi
    ended
    [ $rc != 0 ] || overslept=$((overslept + 1))
    [ $rc = 0 ] || kills=$((kills + 1))
}

newest() # STAGE: step of the newest checkpoint, or nothing
{
    find "$try/$1/ckpt" -maxdepth 1 -name 'step-*' 2>/dev/null | sort | sed -n '$s/.*step-0*//p'
}

# Steps that were recorded are in a checkpoint, but for those since the last one, and one more that may have been on its way to disk.
nothing_lost() # STAGE NEWEST WHAT
{
    local recorded
    recorded=$(losses "$try/$1/metrics.jsonl" 2>/dev/null | wc -l)
    [ $(((recorded - 1) / every * every - every)) -le "${2:-0}" ] || complain "$3: $recorded steps recorded, newest checkpoint ${2:-none}"
}

moment() # STAGE
{
    local stage=$1 np again victim how calls_of at twice what before="" resumed
    pick np 1 2 2 2 3
    pick again "$np" "$np" 1 2 3 4
    pick how time call call
    draw victim "$np"
    if [ "$how" = call ]; then
        calls_of=${number[$stage-$((victim > 0 && ${number[$stage-1]} > 0))]}
        draw at "$calls_of"
        at=$((at + 1))
    else
        pick victim "$victim" mpirun
        draw at "${ms[$stage]}"
    fi
    # How long mpirun gives the other ranks between TERM and KILL: not at all, to save time, or a second, as is usual
    pick OMPI_MCA_odls_base_sigkill_timeout 0 0 0 1
    export OMPI_MCA_odls_base_sigkill_timeout
    what="$stage on $np, $victim killed at $how $at, again on $again"
    fresh
    strike "$stage" "$np" "$victim" "$how" "$at"
    what+=" ($(sed -n 's/ <- kill$//p' "$calls" 2>/dev/null))"
    draw twice 4
    if [ "$twice" = 0 ]; then # and while it recovers, where retention follows soon, too
        draw at 30
        what+=", killed again at call $((at + 1))"
        strike "$stage" "$again" 0 call $((at + 1))
    fi
    if is_training "$stage"; then
        before=$(newest "$stage")
        nothing_lost "$stage" "$before" "$what"
    fi
    launch "$again" "$stage"
    [ $rc = 0 ] || complain "$what: then exit $rc"
    if [ -n "$before" ] && ! grep -q 'nothing to do' "$log"; then
        resumed=$(sed -n 's/.*resumed at step \([0-9]*\) of.*/\1/p' "$log")
        [ "${resumed:-0}" -ge "$before" ] || complain "$what: resumed at ${resumed:-the start}, a checkpoint of $before was there"
        ! grep -q 'set aside' "$log" || complain "$what: a damaged checkpoint was published"
    fi
    if [ "$np" = 2 ] && [ "$again" = 2 ]; then
        same "$stage" || complain "$what: another product"
        alike=$((alike + 1))
    else
        same "$stage" 1e-4 || complain "$what: another product"
        elastic=$((elastic + 1))
    fi
    no_orphans "$what"
    rm -rf "$dir"/shm/* # of processes that were killed: Open MPI has nobody who would
    tidy "$what"
}

kills=0 stuck=0 overslept=0 alike=0 elastic=0
for ((m = 0; m < ${MOMENTS:-14}; m++)); do
    if [ $m -lt 9 ]; then nth_stage stage $m; else pick stage $stages align distill extend; fi
    moment "$stage"
done
echo "survived: $kills kills, $alike restarts on as many ranks, $elastic elastic ones; $overslept moments were after the end; $stuck times mpirun was stuck"
[ $((10 * stuck)) -le $((kills + 10)) ] || complain "mpirun was stuck $stuck times"
[ $((2 * kills)) -gt "${MOMENTS:-14}" ] || complain "only $kills kills"
[ $bad = 0 ]
