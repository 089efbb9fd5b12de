#!/usr/bin/env bash
# Files that were damaged on disk are noticed before they are used: the checkpoints of a real run (the one before is used), the products that
# a stage reads (exit 2, one line, no product), and what a stage finds of its own (made again, or refused).
#
# Foreign files and those for people have no checksum: HuggingFace directories, metrics.jsonl and results.json are not in this test.
#
#   SEED       what is drawn (default 1)
#   DAMAGES    to checkpoints (default 60)
#   PRODUCTS   damages to products (default 14)
#TEST np: 1
#TEST timeout: 240
. "$(dirname "$0")/stages.sh"
export OMPI_MCA_odls_base_sigkill_timeout=0 # of the ranks: by then all have finalised, or hang
damage=$GR_BUILD/tests/faults/drive_damage
golden

# ---- checkpoints, by themselves and under the program ----------------------------------------------------

"$damage" checkpoints "$SEED" "${DAMAGES:-60}" "$gold/align/ckpt" "$dir/scratch" >"$dir/damages" 2>"$log" || complain "$(tail -n 2 "$dir/damages")"
tail -n 1 "$dir/damages"

unfinished() # a run of align with two checkpoints and no product
{
    fresh
    cp -r "$gold/align" "$try/align"
    rm -f "$try/align/weights.h5" "$try/align/graft.json"
}

file_of() # VARIABLE DIRECTORY: one of its files
{
    pick "$1" $(find "$2" -type f ! -name '.*' -printf '%P\n' | sort)
}

newest=$(cd "$gold/align/ckpt" && ls -d step-* | tail -n 1)
for np in 2 3; do
    unfinished
    file_of file "$try/align/ckpt/$newest"
    how=$("$damage" file "$SEED$np" "$try/align/ckpt/$newest/$file" "$gold/align/weights.h5")
    what="align on $np, $newest/$file: $how"
    launch $np align
    [ $rc = 0 ] || complain "$what: exit $rc"
    grep -q 'damaged and set aside' "$log" || complain "$what: not set aside"
    grep -q "resumed at step $((steps / every * every)) of" "$log" || complain "$what: the checkpoint before is not used"
    if [ $np = 2 ]; then same align; else same align 1e-4; fi || complain "$what: another product"
done

unfinished
for manifest in "$try"/align/ckpt/step-*/manifest.json; do : >"$manifest"; done
launch 2 align
[ $rc = 2 ] && grep -q 'checkpoints are damaged' "$log" && ! appeared align || complain "all checkpoints damaged: exit $rc"

# ---- products ---------------------------------------------------------------------------------------------

# reads STAGE: the stages it reads from
reads()
{
    case $1 in
    teacher)  echo import tokenize ;;
    convert)  echo import ;;
    align)    echo convert import tokenize ;;
    distill)  echo align teacher tokenize ;;
    extend)   echo distill tokenize ;;
    evaluate) echo extend import tokenize ;;
    export)   echo distill ;;
    esac
}

other_kind() # VARIABLE STAGE: a sealed file that its product is not
{
    printf -v "$1" %s "$gold/teacher/logits-00000.h5"
    [ "$2" != teacher ] || printf -v "$1" %s "$gold/tokenize/shard-00000.h5"
}

product_file() # VARIABLE STAGE: one of the files that are its product
{
    pick "$1" $(cd "$gold/$2" && find . -maxdepth 1 -name '*.h5' -o -maxdepth 1 -name index.json | sort)
}

refused() # STAGE: what it reads is damaged
{
    local stage=$1 from file other how what real=$gold
    pick from $(reads "$stage")
    other_kind other "$from"
    product_file file "$from"
    gold=$dir/spoilt
    rm -rf "$gold"
    cp -r "$real" "$gold"
    draw how 1000000
    how=$("$damage" file "$how" "$gold/$from/$file" "$other")
    what="$stage reads $from/$file: $how"
    fresh
    launch 2 "$stage"
    [ $rc = 2 ] || complain "$what: exit $rc"
    [ "$(grep -c 'error (' "$log")" = 1 ] || complain "$what: one line was expected"
    grep -q "error (bad input): $gold/$from" "$log" || complain "$what: the file is not named"
    ! appeared "$stage" || complain "$what: there is a product"
    gold=$real
}

# Of a finished product a stage compares what identifies it, not every byte: that is for those who read it, above.
found() # STAGE: its own product is damaged
{
    local stage=$1 file other how what
    product_file file "$stage"
    other_kind other "$stage"
    fresh
    cp -r "$gold/$stage" "$try/$stage"
    draw how 1000000
    how=$("$damage" file "$how" "$try/$stage/$file" "$other")
    what="$stage finds its $file: $how"
    launch 2 "$stage"
    case $rc in
    0) grep -q 'is complete: nothing to do' "$log" || same "$stage" || complain "$what: exit 0, and a wrong product" ;;
    1 | 2) grep -q "error (.*$stage/" "$log" || complain "$what: the file is not named" ;;
    *) complain "$what: exit $rc" ;;
    esac
}

products=0
for ((i = 0; i < ${PRODUCTS:-14}; i++)); do
    nth_stage stage $((i + SEED))
    [ -z "$(reads "$stage")" ] || refused "$stage"
    case $stage in evaluate | export) ;; *) found "$stage" ;; esac
    products=$((products + 1))
done
echo "survived: $products damages to products"
[ $bad = 0 ]
