# shellcheck shell=bash
# What every batch script here does. Sourced, by the path of the clone: Slurm runs a copy of a batch script from a spool
# directory, so the script's own place says nothing. The clone is GRAFT_HOME, else the directory that the job was submitted from,
# which is also where the job runs: relative paths in a configuration, and logs/, start there.
#
#   run_stage STAGE CONFIG [section.key=value ...]     returns when the stage is complete; otherwise it ends the job
#
# What a job does with the exit code of a stage (docs/errors.md):
#
#   0    complete (also when it was so before): the script goes on
#   2    wrong configuration or input: fail at once; no second try would help
#   75   another run holds the lock: back into the queue, for later
#   85   stopped at a checkpoint, as asked (time limit near, preempted): back into the queue
#   86   a checkpoint could not be written: back, but held, until a human has made room and says scontrol release
#   else crashed: back, for the newest checkpoint is intact; but after 3 crashes in a row without a new checkpoint: held
#
# A start that Slurm ended (a node lost, preemption without grace) counts as a crash when the next one begins. MAX_RESTARTS (20)
# bounds the restarts that have brought nothing new, crashes and waiting for a lock together, and crashes at all. A node on which
# the stage has crashed twice is excluded, as long as enough others remain.
#
# Environment, mostly from slurm/site.sh:
#   GRAFT_HOME, GRAFT_SITE (default GRAFT_HOME/slurm/site.sh), GR_BUILD (default GRAFT_HOME/build)
#   GRAFT_SRUN             the launcher; default "srun --mpi=pmix"
#   GRAFT_RANKS_PER_NODE   default: one per socket. --ntasks-per-node of the script or of sbatch wins
#   GRAFT_LOCK_WAIT        seconds between tries for a lock; default 300, and longer from try to try
#   MAX_RESTARTS           default 20

graft_home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=slurm/alone.sh
. "$graft_home/slurm/alone.sh"
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} # of an array's last element, SLURM_JOB_ID means all of them
job=${job:-${SLURM_JOB_ID:-}}
starts=${SLURM_RESTART_COUNT:-0}
again=() # batch script and arguments that would do the same as this job; set by run_stage where a script has not

say() { printf '%(%FT%T%z)T start %d: %s\n' -1 "$starts" "$*"; }

give_up() # CODE WHY
{
    say "$2"
    exit "$1"
}

set_up()
{
    [ -n "$job" ] || give_up 2 "this is a batch script: sbatch it"
    unset OMP_NUM_THREADS # of the shell that submitted; a rank takes its share of the cores it may use
    local site=${GRAFT_SITE:-$graft_home/slurm/site.sh}
    # shellcheck source=/dev/null
    [ ! -f "$site" ] || . "$site" || give_up 2 "$site failed"
    build=${GR_BUILD:-$graft_home/build}
    read -ra launch <<<"${GRAFT_SRUN:-srun --mpi=pmix}"
    # HDF5 asks for locks that many parallel file systems refuse. Graft needs none of them: it writes every file once.
    export HDF5_USE_FILE_LOCKING=FALSE
    mkdir -p logs/starts || give_up 2 "no directory for notes"
    set_ranks
}

set_ranks() # ranks per node, and cores for each
{
    local sockets cores
    sockets=$(lscpu -p=socket 2>/dev/null | grep -v '^#' | sort -u | wc -l)
    cores=${SLURM_CPUS_ON_NODE:-1}
    ranks=${SLURM_NTASKS_PER_NODE:-${GRAFT_RANKS_PER_NODE:-$((sockets > 0 ? sockets : 1))}}
    cores_per_rank=${SLURM_CPUS_PER_TASK:-$((cores / ranks > 0 ? cores / ranks : 1))}
}

# ---- where the stage stands ------------------------------------------------------------------------

# Only the program knows where its output goes: it is asked, and nothing is configured twice.
find_output() # sets `out`
{
    local resolved
    resolved=$(alone "$program" "${arguments[@]}" --print-config) || give_up 2 "$program refuses ${arguments[*]}"
    out=$(sed -n 's/^  out: "\(.*\)"$/\1/p' <<<"$resolved" | head -n 1 | sed 's/\\\(["\\]\)/\1/g')
    [ -n "$out" ] || give_up 2 "$program --print-config names no run.out"
}

# Sets `step`, of the newest checkpoint, and `files`, the number of files of the product: what no kill can take back.
look()
{
    local newest
    newest=$(find "$out/ckpt" -maxdepth 1 -name 'step-*' -printf '%f\n' 2>/dev/null | sort | tail -n 1)
    step=$((10#0${newest#step-}))
    files=$(find "$out" -maxdepth 1 -type f \( -name '*.h5' -o -name '*.json' -o -name '*.safetensors' \) ! -name '.*' 2>/dev/null | wc -l)
}

# Is the stage's product there? Its record is written last (docs/formats.md); another node may see it a moment later.
complete()
{
    local try record=$out/graft.json
    [ "$stage" != report ] || return 0 # made anew each time, without a record
    case $out in *.h5) record=$out.json ;; esac
    for ((try = 0; try < 10; try++)); do
        [ ! -f "$record" ] || return 0
        sleep 1
    done
    return 1
}

# ---- notes from start to start -----------------------------------------------------------------------

# One small file per job and stage. All numbers: restarts that brought nothing, crashes in all, crashes in a row without
# progress, tries for the lock, the best that `look` has seen; and whether a start is under way, and nodes of crashes.
load_notes()
{
    local key value
    idle=0 crashes=0 fruitless=0 waits=0 best_step=0 best_files=0 state=new crashed=""
    notes=logs/starts/${GRAFT_CONTINUES:-$job}.$stage
    if [ "$starts" -eq 0 ] && [ -z "${GRAFT_CONTINUES:-}" ]; then
        rm -f "$notes" # of another job, long ago: numbers begin again when Slurm is set up anew
    elif [ -f "$notes" ]; then
        while IFS='=' read -r key value; do
            case $key in
            idle | crashes | fruitless | waits | best_step | best_files | state | crashed) printf -v "$key" %s "$value" ;;
            esac
        done <"$notes"
    fi
}

save_notes() # STATE
{
    state=$1
    printf '%s\n' "idle=$idle" "crashes=$crashes" "fruitless=$fruitless" "waits=$waits" "best_step=$best_step" \
        "best_files=$best_files" "state=$state" "crashed=$crashed" >"$notes.tmp" && mv "$notes.tmp" "$notes"
}

# Has anything been finished since the last look? Remembers what there is.
advanced()
{
    look
    local was_step=$best_step was_files=$best_files
    best_step=$((step > best_step ? step : best_step)) best_files=$((files > best_files ? files : best_files))
    [ "$step" -gt "$was_step" ] || [ "$files" -gt "$was_files" ]
}

count_crash()
{
    crashes=$((crashes + 1))
    if advanced; then fruitless=0; else fruitless=$((fruitless + 1)) idle=$((idle + 1)); fi
}

# ---- back into the queue -----------------------------------------------------------------------------

job_says() # FIELD of scontrol show job
{
    scontrol --oneliner show job "$job" 2>/dev/null | sed -n "1s/.*\<$1=\([^ ]*\).*/\1/p"
}

# Slurm has ended this job already: it was cancelled, and must stay so, or a node was lost, and Slurm has put it back. Only when its
# time is up (the last save took longer than the warning) is it for us to go on.
taken()
{
    case $(job_says JobState) in
    RUNNING | "") return 1 ;; # or there is no answer now
    esac
    [ "$(job_says Reason)" != TimeLimit ]
}

# The script must not end before Slurm has taken the job: one that exits has failed, not been requeued. Slurm kills it.
linger()
{
    local until=$((SECONDS + 900))
    while [ $SECONDS -lt $until ]; do
        sleep 5 &
        wait $!
    done
    give_up 1 "Slurm has not taken the job back"
}

# back HOW WHY: HOW is now, later or held
back()
{
    local how=$1 verb=requeue try delay changes=()
    [ "$how" != held ] || verb=requeuehold
    if [ "$how" != held ] && { [ "$idle" -gt "${MAX_RESTARTS:-20}" ] || [ "$crashes" -gt "${MAX_RESTARTS:-20}" ]; }; then
        give_up 1 "$2; giving up after $starts restarts (MAX_RESTARTS)"
    fi
    save_notes "$how"
    exclude_nodes
    delay=0
    if [ "$how" = later ]; then
        delay=$((${GRAFT_LOCK_WAIT:-300} * waits))
        changes+=("StartTime=$(printf '%(%FT%T)T' $((EPOCHSECONDS + delay)))")
    fi
    say "$2; back into the queue${3:+, $3}"
    for ((try = 0; try < 60; try++)); do # the controller may be away for a while
        if taken; then linger; fi
        if scontrol "$verb" "$job"; then
            apply_changes
            linger
        fi
        [ "$(job_says Requeue)" != 0 ] || resubmit "$how"
        sleep 10 &
        wait $!
    done
    give_up 1 "scontrol $verb $job does not work"
}

# Start times and excluded nodes can be changed only of a job that waits, hence after the requeue, which sends TERM to every process
# of this job: this one is deaf to that.
apply_changes()
{
    [ ${#changes[@]} -gt 0 ] || return 0
    (
        trap '' TERM
        exec scontrol update JobId="$job" "${changes[@]}"
    ) || say "could not set ${changes[*]}"
}

# What srun said of the task that failed first: sets `guilty`, its node, and `code`, how it exited; empty where srun named several
# nodes in one line, or no code. Of the other tasks, which were killed for it, srun speaks later.
first_failure() # FROM, an offset in the log of this job
{
    local log line
    guilty="" code=""
    log=$(readlink "/proc/$$/fd/1")
    [ -f "$log" ] || return 0
    line=$(tail -c "+$(($1 + 1))" "$log" | grep -am 1 '^srun: error: [^ ]*: tasks\{0,1\} ')
    guilty=$(sed -n 's/^srun: error: \([^][ :]*\): .*/\1/p' <<<"$line")
    code=$(sed -n 's/.*: Exited with exit code \([0-9]*\)$/\1/p' <<<"$line")
}

exclude_nodes() # adds to `changes` those with two crashes
{
    local bad wanted=${SLURM_JOB_NUM_NODES:-1} up
    bad=$(tr ' ' '\n' <<<"$crashed" | grep . | sort | uniq -d | paste -sd,)
    [ -n "$bad" ] || return 0
    up=$(sinfo -h -N -p "$SLURM_JOB_PARTITION" -t idle,alloc,mix,comp -o %N | sort -u | grep -cvxF -f <(tr , '\n' <<<"$bad"))
    if [ "$up" -lt "$wanted" ]; then
        say "two crashes on each of $bad, but only $up nodes would remain without: not excluded"
    else
        say "excluding $bad: two crashes there"
        changes+=(ExcNodeList="$bad")
    fi
}

# Where Slurm does not requeue (JobRequeue=0, --no-requeue): a new job takes the place of this one, and what waits for this one
# waits for that one.
resubmit() # HOW
{
    local new options=()
    options+=(--dependency="afterany:$job" --job-name="$SLURM_JOB_NAME" --partition="$SLURM_JOB_PARTITION" --no-requeue
        --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node="$ranks" --time="$(job_says TimeLimit)" --begin="now+$delay")
    [ -z "${SLURM_JOB_ACCOUNT:-}" ] || options+=(--account="$SLURM_JOB_ACCOUNT")
    [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || options+=(--array="$SLURM_ARRAY_TASK_ID" --output=logs/%x.%A_%a.log)
    [ "$1" != held ] || options+=(--hold)
    new=$(GRAFT_HOME=$graft_home GRAFT_CONTINUES=${GRAFT_CONTINUES:-$job} \
        sbatch --parsable "${options[@]}" "$graft_home/slurm/${again[0]}" "${again[@]:1}") || return
    say "this job may not be requeued: job $new takes its place"
    replace_in_dependencies "$new"
    exit 0
}

replace_in_dependencies() # BY
{
    local id what me=$job by=$1
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then me="${SLURM_ARRAY_JOB_ID}_[*]" by="$SLURM_ARRAY_JOB_ID,\\1:$1"; fi
    while read -r id what; do
        [ "$id" != "$1" ] || continue
        what=$(sed "s/([^)]*)//g; s/\(after[a-z]*\):$me\(,\|\$\)/\1:$by\2/g" <<<"$what")
        scontrol update JobId="$id" Dependency="$what" || say "job $id still waits for this one"
    done < <(squeue -h -t PD -o '%i %E' | grep "after[a-z]*:$me(")
}

# ---- the stage -----------------------------------------------------------------------------------------

# Ranks take USR1 as "save and stop". The step gets TERM by itself where Slurm sends one, and the handler must outlive it.
forward()
{
    [ -n "$pid" ] || return 0
    say "asked to stop"
    asked=yes
    kill -USR1 "$pid" 2>/dev/null
}

launch_ranks() # sets `rc`
{
    "${launch[@]}" --kill-on-bad-exit=1 --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$((SLURM_JOB_NUM_NODES * ranks))" \
        --ntasks-per-node="$ranks" --cpus-per-task="$cores_per_rank" "$program" "${arguments[@]}" &
    pid=$!
    while :; do # wait returns early when a signal came: ask again for the real code
        wait "$pid"
        rc=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    pid=""
}

# Sets `rc`; `none` when srun says that all is well and nothing was done: so it has ended after it failed to start a rank
launch_and_judge()
{
    local log_before
    log_before=$(stat -Lc %s "/proc/$$/fd/1")
    launch_ranks
    first_failure "$log_before"
    [ "$rc" -lt 128 ] || rc=${code:-$rc} # srun reports the largest: of a rank that it killed because another one had left
    if [ "$rc" -eq 0 ] && ! complete; then
        say "the launcher says 0, but there is no product in $out"
        rc=none
    fi
}

run_stage() # STAGE CONFIG [section.key=value ...]
{
    local try
    stage=$1 arguments=("${@:2}") program=$build/bin/graft-$1 pid="" asked=""
    [ ${#again[@]} -gt 0 ] || again=(stage.sh "$@")
    find_output
    load_notes
    if [ "$state" = held ]; then fruitless=0 crashes=0 idle=0 waits=0; fi # a human has released it
    if [ "$state" = running ]; then
        say "the last start never ended: a node was lost, or Slurm gave no grace"
        count_crash
    fi
    [ "$fruitless" -lt 3 ] || back held "3 crashes in a row without a new checkpoint" "held: scontrol release $job, when it is mended"
    advanced
    save_notes running
    say "graft-$stage into $out, from step $step, on $SLURM_JOB_NODELIST, $ranks ranks per node"

    trap forward USR1 TERM
    for try in 1 2 3; do # each is a step of another number: what a dead one left on a node is not in the way of the next
        launch_and_judge
        if [ "$rc" != none ] || [ -n "$asked" ]; then break; fi
    done
    [ "$rc" != none ] || rc=1
    say "graft-$stage ended with $rc"
    case $rc in
    0) rm -f "$notes" ;;
    2) give_up 2 "wrong configuration or input: see above" ;;
    75)
        waits=$((waits + 1)) idle=$((idle + 1))
        back later "another run holds the lock" "for later" ;;
    85)
        waits=0
        advanced || idle=$((idle + 1))
        back now "stopped at a checkpoint" ;;
    86) back held "no checkpoint can be written" "held: make room, then scontrol release $job" ;;
    *)
        count_crash
        crashed="$crashed $guilty"
        if [ "$fruitless" -lt 3 ]; then
            back now "crashed"
        else
            back held "3 crashes in a row without a new checkpoint" "held: scontrol release $job, when it is mended"
        fi ;;
    esac
}

set_up
