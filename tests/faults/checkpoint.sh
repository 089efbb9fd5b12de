# What the checkpoint fault tests share. Source it; every path lies in GR_TEST_DIR.
drive=$GR_BUILD/tests/faults/drive_checkpoint
dir=$GR_TEST_DIR out=$GR_TEST_DIR/out err=$GR_TEST_DIR/err bad=0
rows=101
mode="" # async: the run is to write beside its steps

[ -x "$drive" ] || { echo "not built: $drive"; exit 1; }

complain() # MESSAGE...
{
    echo "FAILED: $*"
    sed 's/^/    out: /' "$out" | tail -n 12
    sed 's/^/    err: /' "$err" | tail -n 12
    bad=$((bad + 1))
    [ $bad -lt 10 ] || exit 1
}

skip() # MESSAGE
{
    echo "$1"
    exit 77
}

# train NP DIR STEPS EVERY KEEP: to $out and $err, exit code in $rc. NP 0: one process without MPI.
train()
{
    local np=$1
    shift
    if [ "$np" = 0 ]; then
        "$drive" "$@" $rows alone $mode >"$out" 2>"$err"
    else
        timeout -k 2 20 mpirun -n "$np" "$drive" "$@" $rows $mode >"$out" 2>"$err"
    fi
    rc=$?
}

final() { sed -n 's/^final //p' "$out"; }
resumed() { sed -n 's/^resumed \([0-9]*\) .*/\1/p' "$out"; }

# golden STEPS: the hash of a run that nothing disturbs
golden()
{
    train 0 "$dir/golden" "$1" 1000 1
    [ $rc = 0 ] || { complain "the undisturbed run"; exit 1; }
    rm -r "$dir/golden"
    final
}

# fresh SOURCE: $dir/ckpt is a copy
fresh()
{
    rm -rf "$dir/ckpt"
    cp -a "$1" "$dir/ckpt"
}

# No garbage of a save or of a deletion in DIR
clean() # DIR WHAT
{
    local left
    left=$(find "$1" -maxdepth 1 \( -name '.tmp-*' -o -name '.del-*' \))
    [ -z "$left" ] || complain "$2: left behind: $left"
}
