#!/usr/bin/env bash
# Run the tests: every tests/KIND/test_*.c (built by make) and tests/KIND/test_*.sh.
#
#   tests/run.sh [--kinds "unit mpi ..."] [--build DIR] [--asan DIR] [--slower N] [NAME ...]
#
#   --kinds   directories below tests/ (default: all but lint; lint runs tests/lint/*.sh)
#   --build   where make put the programs (default build)
#   --asan    run the unit tests once more, from this build directory
#   --slower  all limits N times as long
#   NAME      only tests whose path contains one of the names
#
# A test says near its top how it wants to be run; there is no other list:
#
#   /*TEST                 in C; in shell:   #TEST np: 1
#   np: 1 2 3 4                              #TEST timeout: 60
#   timeout: 20            seconds
#   */
#
# One that mostly waits says `lane: beside`, and runs while the others do.
#
# A test passes with exit code 0 and skips with 77. It finds in its environment
#   GR_TEST_DIR   an empty directory of its own, removed when it passes
#   GR_BUILD      the build directory (absolute)
#   GR_NP         the np of this run
# and fails also by leaving a process behind. GR_TEST_SAYS=PATTERN shows the lines of its output that begin so.
set -u
cd "$(dirname "$0")/.." || exit 1

kinds="unit mpi jobs slurm golden faults gpu" build=build asan="" slower=1 names=()
while [ $# -gt 0 ]; do
    case $1 in
    --kinds | --build | --asan | --slower)
        [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 2; }
        printf -v "${1#--}" %s "$2"
        shift 2 ;;
    -*) echo "$0: unknown option $1" >&2; exit 2 ;;
    *)  names+=("$1"); shift ;;
    esac
done

# ---- the environment every test gets ------------------------------------------------------------

unset MAKEFLAGS MFLAGS MAKELEVEL # a test may call make
for v in $(compgen -e); do       # as if outside of any Slurm job
    case $v in SLURM_* | PMIX_* | PMI_*) unset "$v" ;; esac
done
shm=$(mktemp -d /dev/shm/graft-test.XXXXXX 2>/dev/null || mktemp -d) || exit 1
beside=
trap '[ -z "$beside" ] || kill $beside 2>/dev/null; rm -rf "$shm"' EXIT
trap 'exit 130' INT TERM

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1    # more ranks than cores ...
export OMPI_MCA_mpi_yield_when_idle=1         # ... which must not spin: 1000 times slower
export OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp # looking for other networks takes 0.2 s a launch
export OMPI_MCA_btl_vader_backing_directory=$shm # a killed rank leaves its segment there
export HDF5_USE_FILE_LOCKING=FALSE
# Leaks are counted by gr_mem_live(); Open MPI has some of its own. A failed allocation is NULL.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1

# ---- one test -----------------------------------------------------------------------------------

# field FILE KEY: the value of KEY in the TEST block of FILE
field()
{
    case $1 in
    *.c)  sed -n '/^\/\*TEST/,/\*\//s/^'"$2"': *//p' "$1" ;;
    *.sh) sed -n 's/^#TEST '"$2"': *//p' "$1" ;;
    esac | head -n 1
}

# Processes that inherited GR_TEST_DIR=$1, whatever they are called
left_behind()
{
    grep -lszxF "GR_TEST_DIR=$1" /proc/[0-9]*/environ | cut -d/ -f3
}

passed=0 failed=0 skipped=0

# verdict WORD LABEL SECONDS [NOTE]
verdict()
{
    printf '%-7s %6.1f s  %s%s\n' "$1" "$3" "$2" "${4:+  ($4)}"
    case $1 in
    ok)   passed=$((passed + 1)) ;;
    skip) skipped=$((skipped + 1)) ;;
    *)    failed=$((failed + 1)) ;;
    esac
}

# The last 30 lines of a log, or 30 from where a sanitizer began to speak
excerpt()
{
    local at
    at=$(grep -anm 1 -E 'ERROR: AddressSanitizer|: runtime error: ' "$1" | cut -d: -f1)
    if [ -n "$at" ]; then tail -n "+$at" "$1" | head -n 30; else tail -n 30 "$1"; fi
}

# run_one FILE LABEL NP TIMEOUT COMMAND...
run_one()
{
    local file=$1 label=$2 np=$3 limit=$4 dir log rc t0 t1 word note="" stray p
    shift 4
    dir=$(mktemp -d "$build/scratch/$(basename "${file%.*}").XXXXXX") || exit 1
    log=$build/scratch/${dir##*/}.log
    t0=${EPOCHREALTIME/./}
    { # the outer redirection hides bash's own remark about a killed test
        GR_TEST_DIR=$dir GR_BUILD=$build GR_NP=$np OMP_NUM_THREADS=$((np == 1 ? 2 : 1)) \
            timeout -k 5 "$limit" "$@" >"$log" 2>&1 </dev/null
    } 2>/dev/null
    rc=$?
    t1=$(((${EPOCHREALTIME/./} - t0) / 1000))

    case $rc in
    0)  word=ok ;;
    77) word=skip note=$(tail -n 1 "$log") ;;
    *)  word=FAILED note="exit $rc"
        if [ $t1 -ge $((limit * 1000)) ]; then word=HANG note="limit $limit s"; fi ;;
    esac
    for _ in 1 2 3 4 5 6 7 8 9 10; do # a daemon of mpirun may need a moment
        stray=$(left_behind "$dir")
        [ -z "$stray" ] && break
        sleep 0.2
    done
    if [ -n "$stray" ]; then
        note="${note:+$note; }left behind:"
        for p in $stray; do note+=" $p $(tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null)"; done
        [ $word = HANG ] || word=FAILED
        kill -9 $stray 2>/dev/null
    fi
    verdict $word "$label" "$((t1 / 1000)).$(printf %03d $((t1 % 1000)))" "$note"
    [ -z "${GR_TEST_SAYS:-}" ] || grep -a "^$GR_TEST_SAYS" "$log"
    case $word in
    ok | skip) rm -rf "$dir" "$log" ;;
    *)  excerpt "$log" | sed 's/^/    | /'
        echo "    log $log  files $dir" ;;
    esac
}

wanted()
{
    local n
    [ ${#names[@]} -eq 0 ] && return 0
    for n in "${names[@]}"; do [[ $1 == *"$n"* ]] && return 0; done
    return 1
}

# run_kind KIND BUILD MARK SLOWER: MARK distinguishes the label, SLOWER multiplies the limits
run_kind()
{
    local kind=$1 file np limit exe n cmd glob=test_
    [ "$kind" = lint ] && glob=""
    build=$(mkdir -p "$2/scratch" && cd "$2" && pwd) || exit 1
    for file in tests/"$kind"/$glob*.c tests/"$kind"/$glob*.sh; do
        [ -e "$file" ] && wanted "$file" || continue
        [ "$(field "$file" lane)" = "$lane" ] || continue
        np=$(field "$file" np) limit=$(field "$file" timeout)
        if ! [[ $np =~ ^[0-9]+(\ +[0-9]+)*\ *$ && $limit =~ ^[0-9]+$ ]]; then
            verdict FAILED "$file$3" 0 "no TEST block with np and timeout"
            continue
        fi
        exe=$build/${file%.c}
        if [[ $file == *.c && ! -x $exe ]]; then
            verdict FAILED "$file$3" 0 "not built: $exe"
            continue
        fi
        for n in $np; do
            case $file:$n:$kind in
            *.sh:*)     cmd=(bash "$file") ;;
            *:1:unit)   cmd=("$exe") ;;
            *)          cmd=(mpirun -n "$n" "$exe") ;;
            esac
            run_one "$file" "$file np=$n$3" "$n" $((limit * $4)) "${cmd[@]}"
        done
    done
}

# run_lane LANE: the tests that say so; most say nothing
run_lane()
{
    local lane=$1 k main=$build
    for k in $kinds; do run_kind "$k" "$main" "" "$slower"; done
    [ -z "$asan" ] || run_kind unit "$asan" " (asan)" $((5 * slower))
}

{ run_lane beside; echo "$passed $failed $skipped"; } >"$shm/beside" 2>&1 &
beside=$!
run_lane ""
wait $beside
head -n -1 "$shm/beside"
read -r p f s < <(tail -n 1 "$shm/beside")
passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))

if [ "$skipped" -eq 0 ]; then echo "$passed passed, $failed failed"; else echo "$passed passed, $failed failed, $skipped skipped"; fi
[ $failed -eq 0 ]
