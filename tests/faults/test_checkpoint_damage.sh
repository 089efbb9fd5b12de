#!/usr/bin/env bash
# Every file of the newest checkpoint damaged in every way, every byte of its manifest: it is set aside, the older one is
# used, and the run ends as if nothing had happened. With all damaged, the run says so and does not start over.
#TEST np: 1
#TEST timeout: 60
. "$(dirname "$0")/checkpoint.sh"

want=$(golden 6)
base=$dir/base new=$dir/ckpt/step-00000004
train 2 "$base" 4 2 2
[ $rc = 0 ] && [ -d "$base/step-00000002" ] && [ -d "$base/step-00000004" ] || { complain "two checkpoints, exit $rc"; exit 1; }

# falls_back NP WHAT: the damaged step 4 is set aside and step 2 resumed
falls_back()
{
    train "$1" "$dir/ckpt" 6 2 3
    [ $rc = 0 ] && [ "$(resumed)" = 2 ] && [ "$(final)" = "$want" ] || complain "$2: exit $rc, resumed $(resumed), final $(final)"
    ls -d "$dir/ckpt"/bad-step-00000004-* >/dev/null 2>&1 || complain "$2: not set aside"
    grep -q 'damaged and set aside' "$err" || complain "$2: not a word about it"
    clean "$dir/ckpt" "$2"
}

flip() # FILE BYTE BIT
{
    local b
    b=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf "\\x$(printf %x $((b ^ (1 << $3))))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

fresh "$base"
train 0 "$dir/ckpt" 6 2 2
[ $rc = 0 ] && [ "$(resumed)" = 4 ] && [ "$(final)" = "$want" ] || complain "undamaged: resumed $(resumed)"

for file in manifest.json shard-00000-of-00002.h5 shard-00001-of-00002.h5; do
    size=$(stat -c %s "$base/step-00000004/$file")
    for how in shorter longer empty missing directory fifo older smeared other; do
        fresh "$base"
        case $how in
        shorter)   truncate -s -1 "$new/$file" ;;
        longer)    echo >>"$new/$file" ;;
        empty)     : >"$new/$file" ;;
        missing)   rm "$new/$file" ;;
        directory) rm "$new/$file" && mkdir "$new/$file" ;;
        fifo)      rm "$new/$file" && mkfifo "$new/$file" ;;
        older)     cp "$dir/ckpt/step-00000002/$file" "$new/$file" ;; # complete in itself, but of step 2
        smeared)   head -c 99 /dev/zero | tr '\0' x | dd of="$new/$file" bs=1 seek=$((size / 2)) conv=notrunc status=none ;;
        other)     case $file in shard-00000*) cp "$new/shard-00001-of-00002.h5" "$new/$file" ;; shard-00001*) cp "$new/shard-00000-of-00002.h5" "$new/$file" ;; *) cp "$new/shard-00000-of-00002.h5" "$new/$file" ;; esac ;;
        esac
        falls_back 0 "$file $how"
    done
done
for k in 0 2; do # by the ranks together
    fresh "$base"
    flip "$new/shard-0000$((k / 2))-of-00002.h5" 3000 5
    falls_back 2 "shard $k, two ranks"
done

manifest=$base/step-00000004/manifest.json size=$(stat -c %s "$base/step-00000004/manifest.json")
for ((at = 0; at < size; at += at < 40 || at > size - 40 ? 1 : 9)); do
    fresh "$base"
    flip "$new/manifest.json" $at $((at % 8))
    falls_back 0 "manifest.json, bit $((at % 8)) of byte $at"
done
shard=shard-00001-of-00002.h5 size=$(stat -c %s "$base/step-00000004/shard-00001-of-00002.h5")
for ((k = 0; k < 40; k++)); do
    fresh "$base"
    flip "$new/$shard" $((k < 10 ? k * 50 : k * (size - 1) / 39)) $((k % 8))
    falls_back 0 "$shard, flip $k"
done

# The whole directory is another one: moved by hand, a file in its place, a step that lies about its number.
fresh "$base"
rm -r "$new" && cp -a "$dir/ckpt/step-00000002" "$new"
falls_back 0 "step 2 under the name of step 4"
fresh "$base"
rm -r "$new" && : >"$new"
falls_back 0 "a file in place of the directory"
fresh "$base"
mkdir "$dir/ckpt/step-5" "$dir/ckpt/step-00000005x" "$dir/ckpt/step--0000005" # not names of ours
train 0 "$dir/ckpt" 6 2 3
[ "$(resumed)" = 4 ] && [ "$(final)" = "$want" ] || complain "foreign names: resumed $(resumed)"

fresh "$base"
: >"$dir/ckpt/step-00000002/manifest.json"
: >"$dir/ckpt/step-00000004/manifest.json"
train 2 "$dir/ckpt" 6 2 2
[ $rc = 2 ] && grep -q 'all 2 checkpoints are damaged' "$err" || complain "all damaged: exit $rc"
train 0 "$dir/ckpt" 6 2 2
[ $rc = 0 ] && [ -z "$(resumed)" ] && [ "$(final)" = "$want" ] || complain "the run after that starts over: exit $rc"
[ "$(ls -d "$dir/ckpt"/bad-step-* | wc -l)" = 2 ] || complain "what was set aside stays"
[ $bad = 0 ]
