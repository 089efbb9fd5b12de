#!/usr/bin/env bash
# The disk is full: all ranks say so within seconds, older checkpoints stay, and with space the run goes on.
#TEST np: 1
#TEST timeout: 60
. "$(dirname "$0")/checkpoint.sh"
rows=30000 # 1.5 MB a checkpoint
mode=${1:-}

want=$(golden 6)

# fails WHAT: in time, on all ranks, with code 86, and step 2 is intact
fails()
{
    [ $rc = 86 ] && grep -q '^failed 4' "$out" && grep -q '^failed 6' "$out" || complain "$1: exit $rc"
    [ $SECONDS -le 10 ] || complain "$1: took $SECONDS s"
    clean "$d" "$1"
    [ "$(ls -d "$d"/step-*)" = "$d/step-00000002" ] || complain "$1: $(ls "$d")"
}

goes_on() # WHAT
{
    train 2 "$d" 6 2 2
    [ $rc = 0 ] && [ "$(resumed)" = 2 ] && [ "$(final)" = "$want" ] || complain "$1: with space: exit $rc, $(final)"
}

# A write that fails in the middle of a shard: the limit on file size, at which HDF5 gets EFBIG. Without MPI, whose own
# files would not fit either.
d=$dir/limit
train 0 "$d" 2 2 2
[ $rc = 0 ] || complain "before the limit, exit $rc"
SECONDS=0
(trap '' XFSZ; ulimit -f 300; train 0 "$d" 6 2 2; exit $rc)
rc=$?
fails "file size limit"
goes_on "file size limit"

# A file system that is really full.
mkdir "$dir/full"
mount -t tmpfs -o size=8m,nr_inodes=40 tmpfs "$dir/full" 2>/dev/null || { echo "no tmpfs may be mounted here: only the file size limit was tested"; exit $((bad > 0)); }
trap 'umount -l "$dir/full"' EXIT
d=$dir/full/ckpt
train 3 "$d" 2 2 2
[ $rc = 0 ] || complain "while there is space, exit $rc"

free=$(($(stat -f -c '%a * %S' "$dir/full") / 1024))
head -c $(((free - 1000) * 1024)) /dev/zero >"$dir/full/ballast"
SECONDS=0
train 3 "$d" 6 2 2
fails "1 MB free"
grep -q 'MB are free' "$err" || complain "1 MB free: the reason is not told"
rm "$dir/full/ballast"

i=0 # no inode for the third shard
while : 2>/dev/null >"$dir/full/inode-$i"; do i=$((i + 1)); done
rm "$dir/full"/inode-[0123]
SECONDS=0
train 3 "$d" 6 2 2
fails "no inodes"
rm "$dir/full"/inode-*
goes_on "full disk"
[ $bad = 0 ]
