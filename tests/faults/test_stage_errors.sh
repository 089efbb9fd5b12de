#!/usr/bin/env bash
# A call by which a stage changes a file fails (EIO, ENOSPC, EDQUOT, EACCES), takes half of the bytes, or is the first of many on a full disk:
# within ten seconds all ranks have left, or have gone on as documented (docs/errors.md):
#
#   exit 0    nothing was lost: a checkpoint in the middle could not be written, or the call was made in another way; the product is golden's
#   exit 86   the last checkpoint of a training stage could not be written; there is no product
#   exit 1    anything else; one line names the file and says what the system said; there is no product, or it is whole
#
# and the same stage, started again without the fault, ends with golden's product and leaves no temporary.
# Then disks that are really full or read-only, where a tmpfs may be mounted.
#
#   SEED      what is drawn (default 1)
#   ERRORS    how many injected errors (default 24: stages in turn, then a kind of call, then one of them); all: every call of every stage,
#             which takes an hour
#   DISKS     how many full disks (default 6)
#TEST np: 1
#TEST timeout: 300
. "$(dirname "$0")/stages.sh"
export OMPI_MCA_odls_base_sigkill_timeout=0 # of the ranks: by then all have finalised, or hang
golden

# What an error of each kind is called
declare -A says=([EIO]='Input/output error' [ENOSPC]='No space left' [EDQUOT]='quota exceeded' [EACCES]='Permission denied' [full]='No space left')

in_time() # WHAT COMMAND...: at most ten seconds more than undisturbed
{
    local what=$1 t0=${EPOCHREALTIME/./} took
    shift
    "$@"
    took=$(((${EPOCHREALTIME/./} - t0) / 1000))
    [ $((took - ms[$stage])) -le 10000 ] || complain "$what: took $took ms"
}

# The exit code is one of those documented, and what the run left behind is what that code says.
as_documented() # STAGE WHAT CAUSE: part of the message
{
    local stage=$1 what=$2 cause=$3
    outcome[$rc]=$((${outcome[$rc]:-0} + 1))
    case $rc in
    0) same "$stage" || complain "$what: exit 0, but another product" ;;
    86)
        is_training "$stage" || complain "$what: exit 86, and it makes no checkpoints"
        ! appeared "$stage" || complain "$what: exit 86, and there is a product" ;;
    1) ;;
    *) complain "$what: exit $rc" ;;
    esac
    [ $rc = 0 ] && return
    grep -q "error ([^:]*: \(\./\)*\($stage\|\.\)[^ ]*: .*$cause" "$log" || complain "$what: exit $rc, and no line says '$cause' of a file"
}

# An old checkpoint whose deletion failed is deleted by the next run that looks at checkpoints: not by one that finds the product complete.
goes_on() # STAGE WHAT
{
    launch 2 "$1"
    [ $rc = 0 ] || complain "$2: without the fault: exit $rc"
    same "$1" || complain "$2: without the fault: another product"
    if grep -q 'nothing to do' "$log"; then rm -rf "$try/$1"/ckpt/.del-*; fi
    tidy "$2"
}

injected() # STAGE RANK CALL_NUMBER WHAT_HAPPENS
{
    local stage=$1 rank=$2 k=$3 how=$4 what
    fresh
    rm -f "$calls"
    what="$stage, rank $rank, call $k, $how"
    in_time "$what" launch 2 "$stage" "$inject" "$rank" "$try" "$how" "$k" "$calls"
    what+=" ($(sed -n "s/ <- $how\$//p" "$calls" | head -n 1))"
    if grep -q " <- $how\$" "$calls"; then
        hit=$((hit + 1))
        as_documented "$stage" "$what" "${says[$how]:-}"
        [ "$how" = full ] || [ "$(grep -c 'error (' "$log")" -le 1 ] || complain "$what: said more than once"
        [ "$how" != short ] || [ $rc = 0 ] || complain "$what: half a write is no error"
    elif [ $rc != 0 ]; then
        complain "$what: nothing was done, and exit $rc"
    fi
    goes_on "$stage" "$what"
}

# The kinds of calls that a rank made: numbers of all calls of a kind in a line, after its name. A kind is the name and the path without digits.
kinds_of() # STAGE RANK
{
    awk '{ kind = $2 " " $3; gsub(/[0-9a-f]*[0-9]+[0-9a-f]*/, "#", kind); if (!(kind in at)) order[++n] = kind; at[kind] = at[kind] " " $1 }
        END { for (i = 1; i <= n; i++) { split(order[i], word, " "); print word[1] at[order[i]] } }' "$calls-$1-$2"
}

errors_for() # CALL: what can happen to it
{
    case $1 in
    write | pwrite) echo EIO ENOSPC EDQUOT short full ;;
    fsync) echo EIO ENOSPC EDQUOT ;;
    openat | open | mkdir) echo EACCES ENOSPC EDQUOT EIO full ;;
    *) echo EIO EACCES ENOSPC ;;
    esac
}

some() # HOW_MANY
{
    local i stage rank kinds kind k how
    for ((i = 0; i < $1; i++)); do
        nth_stage stage $i
        pick rank 0 0 1
        [ "${number[$stage-$rank]}" -gt 0 ] || rank=0
        mapfile -t kinds < <(kinds_of "$stage" "$rank")
        pick kind "${kinds[@]}"
        pick k ${kind#* }
        pick how $(errors_for "${kind%% *}")
        injected "$stage" "$rank" "$k" "$how"
    done
}

every_one()
{
    local stage rank k call path how
    for stage in $stages; do
        for rank in 0 1; do
            while read -r k call path; do
                pick how $(errors_for "$call")
                injected "$stage" "$rank" "$k" "$how"
            done <"$calls-$stage-$rank"
        done
    done
}

# ---- disks --------------------------------------------------------------------------------------------

# A disk with less space than the stage needs, or without inodes; then there is space again.
full_disk() # STAGE
{
    local stage=$1 what room inodes i=0
    mount -o remount,rw,size=4m,nr_inodes=4000 "$dir/disk"
    fresh
    draw room "$(du -sk --apparent-size "$gold/$stage" | cut -f1)"
    what="$stage, $room kB free"
    draw inodes 4
    if [ "$inodes" = 0 ]; then
        what="$stage, no inodes"
        while : 2>/dev/null >"$dir/disk/inode-$i"; do i=$((i + 1)); done
        rm -f "$dir/disk/inode-0"
    else
        head -c 4194304 /dev/zero >"$dir/disk/ballast" 2>/dev/null
        truncate -s -$((room * 1024)) "$dir/disk/ballast"
    fi
    in_time "$what" launch 2 "$stage"
    as_documented "$stage" "$what" "$(printf '\\(No space left\\|MB are free\\)')"
    rm -f "$dir"/disk/{ballast,inode-*}
    goes_on "$stage" "$what"
}

read_only() # STAGE
{
    local stage=$1
    mount -o remount,ro "$dir/disk"
    in_time "read-only disk" launch 2 "$stage"
    mount -o remount,rw "$dir/disk"
    [[ $rc = [12] ]] || complain "$stage, read-only: exit $rc"
    grep -q "error (.*$stage.*Read-only" "$log" || complain "$stage, read-only: the path is not told"
    [ -z "$(ls -A "$try")" ] || complain "$stage, read-only: left $(ls -A "$try")"
}

disks()
{
    local i stage
    mkdir "$dir/disk"
    mount -t tmpfs -o size=4m,nr_inodes=4000 tmpfs "$dir/disk" 2>/dev/null || { echo "no tmpfs may be mounted here: no full disks"; return; }
    trap 'umount -l "$dir/disk"' EXIT
    try=$dir/disk/try
    for ((i = 0; i < $1; i++)); do nth_stage stage $((i + SEED)); full_disk "$stage"; done
    fresh
    for stage in $stages; do read_only "$stage"; done
}

declare -A outcome
hit=0
if [ "${ERRORS:-24}" = all ]; then every_one; else some "${ERRORS:-24}"; fi
wanted=$([ "${ERRORS:-24}" = all ] && echo 1000 || echo $((${ERRORS:-24} * 3 / 4)))
[ $hit -ge "$wanted" ] || complain "only $hit errors"
disks "${DISKS:-6}"
echo "survived: $hit errors, ${DISKS:-6} disks full: $(for c in "${!outcome[@]}"; do printf 'exit %s: %s. ' "$c" "${outcome[$c]}"; done)"
[ $bad = 0 ]
