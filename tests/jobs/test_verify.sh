#!/usr/bin/env bash
# graft-verify: everything that a pipeline leaves behind is sound; then every kind of file is damaged in every way, in a copy of its directory,
# and all copies are verified in one go. Each damage must be found and named, nothing else may be blamed, nothing may change, nothing may crash.
#
# Single bits of metrics.jsonl are counted but not demanded: it has no checksum, and one digit is as good as another.
#TEST np: 1 3
#TEST timeout: 240
set -euo pipefail
. "$(dirname "$0")/lib.sh"

verify() # RC ARGUMENT...: what it prints goes to $dir/said
{
    local want=$1 rc=0
    shift
    graft "$GR_NP" verify "$@" >"$dir/said" 2>"$dir/log" </dev/null || rc=$?
    [ $rc -eq "$want" ] || { echo "graft-verify $*: exit $rc, expected $want"; cat "$dir/said" "$dir/log"; exit 1; }
}

says() # TEXT
{
    grep -qF -- "$1" "$dir/said" || { echo "not said: $1"; cat "$dir/said"; exit 1; }
}

state() # of every file below the pipeline and the copies
{
    (cd "$dir" && find run copies -printf '%p %y %s %T@ %C@\n' | LC_ALL=C sort)
    (cd "$dir" && find run copies -type f -print0 | LC_ALL=C sort -z | xargs -0 cksum)
}

# ---- a pipeline ----------------------------------------------------------------------------------

all=$dir
mkdir "$all/run" "$all/copies"
dir=$all/run
tiny="data.shards=$dir/shards data.context=48 data.micro_batch=2 train.batch=6 train.log_every=1000 checkpoint.every=7"
{
    make_corpus
    make_model
    make_hybrid
    graft 1 tokenize run.out="$dir/other" tokenize.inputs="$top/CHANGELOG.md" tokenize.tokenizer="$top/configs/demo/tokenizer.json"
    for text in shards other; do
        graft 2 teacher run.out="$dir/logits-$text" model.weights="$dir/teacher" data.shards="$dir/$text" data.context=48 logits.k=8
    done
    graft 2 align run.out="$dir/align" model.weights="$dir/hybrid" teacher.weights="$dir/teacher" $tiny train.steps=10
    graft 2 distill run.out="$dir/distill" model.weights="$dir/align" distill.logits="$dir/logits-shards" $tiny train.steps=10 \
        heldout.shards="$dir/shards" heldout.every=3
    graft 1 evaluate run.out="$dir/eval" model.weights="$dir/distill" evaluate.shards="$dir/shards" evaluate.context=48 evaluate.tokens=480
    echo '[[1, 2, 3, 4], [5, 6, 7, 8]]' >"$dir/ids.json"
    graft 1 evaluate run.out="$dir/raw" model.weights="$dir/distill" evaluate.task=logits evaluate.ids="$dir/ids.json"
    graft 2 export run.out="$dir/hf" model.weights="$dir/distill" export.shard_mib=1
    graft 1 export run.out="$dir/hf-teacher" model.weights="$dir/teacher" export.dtype=bf16
    graft 1 import run.out="$dir/imported" import.model="$dir/hf-teacher"
} >"$all/log" 2>&1 || { tail -n 20 "$all/log"; exit 1; }
dir=$all

# ---- it is sound -----------------------------------------------------------------------------------

state >"$dir/before"
verify 0 "$dir/run" verify.report="$dir/report.json"
state | cmp - "$dir/before"
for kind in checkpoint config export hf-model logits metrics raw-logits record results shard shards weights; do
    grep -q "^ok  *$kind  *" "$dir/said" || { echo "no sound file of kind $kind"; cat "$dir/said"; exit 1; }
done
files=$(find "$dir/run" -type f ! -name ids.json ! -name model.json ! -name .lock ! -name .generation ! -name '.verified-*' | wc -l)
found=$(grep -c '^ok ' "$dir/said")
[ "$found" -eq $((files + 2)) ] || { echo "$files files and 2 exported directories, $found lines"; cat "$dir/said"; exit 1; }
says 'which is there and unchanged'
says '2 attn, 2 gdn'
says '0 damaged, 0 missing; 2 not Graft'
grep -q '"verdict": "ok"' "$dir/report.json"
cp "$dir/said" "$dir/deep"
verify 0 verify.deep=false verify.all=true "$dir/run"
says "ids.json: not a Graft file"
verify 0 "$dir/run/align/weights.h5" "$dir/run/shards/shard-00000.h5" "$dir/run/eval/results.json" "$dir/run/shards/index.json" "$dir/run/hf/graft.json"
says '5 files'
verify 0 "$dir/run/distill/ckpt/step-00000010/"

# ---- what is not there ------------------------------------------------------------------------------

verify 2 "$dir/run/nothing"
says "missing"
mkdir "$dir/empty"
verify 2 "$dir/empty"
grep -q 'there is no Graft file' "$dir/log"
says 'empty: an empty directory'

# ---- damage -----------------------------------------------------------------------------------------

# Copies are hard links but for the one file; in each copy, the directory keeps its name: step-... says what it is.
cat >"$dir/damage.pl" <<'PERL'
use strict;
use File::Copy;
use File::Path qw(make_path);
my ($seed, $flips) = @ARGV;
srand $seed;
my $n = 0;

# directory that is copied, the file in it, another one of its kind that cannot pass for it
my @what = (
    ['hybrid',   'weights.h5', 'teacher/weights.h5'],
    ['hybrid',   'graft.json', 'align/graft.json'],
    ['align',    'graft.json', 'distill/graft.json'],
    ['shards',   'graft.json', 'other/graft.json'],
    ['align',    'weights.h5', 'distill/weights.h5'],
    ['align',    'config.yaml', 'distill/config.yaml'],
    ['align',    'metrics.jsonl', 'teacher/metrics.jsonl'],
    ['align',    'ckpt/step-00000010/manifest.json', 'align/ckpt/step-00000007/manifest.json'],
    ['align',    'ckpt/step-00000010/shard-00000-of-00002.h5', 'align/ckpt/step-00000010/shard-00001-of-00002.h5'],
    ['align',    'ckpt/step-00000007/shard-00001-of-00002.h5', 'align/ckpt/step-00000010/shard-00001-of-00002.h5'],
    ['shards',   'index.json', 'other/index.json'],
    ['shards',   'shard-00000.h5', 'other/shard-00000.h5'],
    ['logits-shards', 'index.json', 'logits-other/index.json'],
    ['logits-shards', 'logits-00000.h5', 'logits-other/logits-00000.h5'],
    ['eval',     'results.json', ''],
    ['raw',      'logits.h5', ''],
    ['hf',       'graft.json', 'hf-teacher/graft.json'],
    ['hf',       'files.json', 'hf-teacher/files.json'],
    ['hf',       'config.json', 'hf-teacher/config.json'],
    ['hf',       'model.safetensors.index.json', ''],
    ['hf',       'model-00001-of-00002.safetensors', 'hf/model-00002-of-00002.safetensors'],
    ['hf',       'tokenizer.json', 'hf/config.json'],
);

sub slurp { my ($path) = @_; local $/; open my $in, '<:raw', $path or die "$path: $!"; my $x = <$in>; return defined $x ? $x : ''; }

# damage(directory, file, how, code that turns the content into another, or undef to delete)
sub damage
{
    my ($from, $file, $how, $make) = @_;
    my $to = sprintf 'copies/%04d', ++$n;
    make_path $to;
    system('cp', '-al', "run/$from", "$to/") == 0 or die 'cp';
    my $path = "$to/$from/$file";
    my $old = slurp($path);
    unlink $path or die "$path: $!";
    my $new = $make ? $make->($old) : undef;
    if (defined $new) {
        open my $out, '>:raw', $path or die "$path: $!";
        print $out $new;
        close $out or die;
    }
    print "$path\t$how\n" unless defined $new && $new eq $old;
}

for my $w (@what) {
    my ($from, $file, $other) = @$w;
    my $name = $file;
    for my $i (1 .. $flips) {
        damage($from, $file, 'flip', sub {
            my $x = shift;
            my $at = $i == 1 ? length($x) - 1 : $i == 2 ? 0 : $i == 3 && length $x > 700 ? int rand 600 : int rand length $x;
            substr($x, $at, 1) = chr(ord(substr $x, $at, 1) ^ 1 << int rand 8);
            return $x;
        });
    }
    damage($from, $file, 'truncate', sub { my $x = shift; return substr $x, 0, 1 + int rand(length($x) - 1) }) for 1 .. 2;
    damage($from, $file, 'truncate', sub { my $x = shift; return substr $x, 0, length($x) - 1 });
    damage($from, $file, 'extend', sub { return $_[0] . "\0" });
    damage($from, $file, 'extend', sub { return $_[0] . $_[0] });
    damage($from, $file, 'empty', sub { return '' });
    damage($from, $file, 'delete', undef) unless "$from/$file" eq 'hybrid/graft.json'; # a model that someone put there has none
    damage($from, $file, 'swap', sub { return slurp("run/$other") }) if $other;
}
PERL
(cd "$dir" && perl damage.pl "$((20261121 + GR_NP))" 10 >damages)
state >"$dir/before"
cd "$dir" # so that paths are those of the list
verify 2 copies
state | cmp - "$dir/before"
awk -F '\t' -v OFS='\t' '
    FNR == NR { # "damaged  kind  size  PATH: cause"
        if ($0 ~ /^(damaged|missing) /) {
            line = $0; sub(/: .*/, "", line); sub(/.* /, "", line); bad[line]
            split(line, part, "/"); blamed[part[2]] = blamed[part[2]] " " line
            if (line !~ /\/hf$/) accused[line] = part[2] # the directory of an export speaks for its files
        }
        next
    }
    {
        free = $1 ~ /metrics.jsonl$/ && $2 == "flip"
        pair = $2 == "swap" # both are sound: all that can be seen is that they do not belong together
        split($1, part, "/"); copy = part[2]
        n[$2]++; total++
        if (pair) paired[copy]
        delete accused[$1]
        if ($1 in bad || (pair && copy in blamed)) seen[$2]++
        else if (free) unseen++
        else { print "not found: " $2 " of " $1 " (blamed:" blamed[copy] ")"; wrong = 1 }
    }
    END {
        for (line in accused) if (!(accused[line] in paired)) { print "blamed for nothing: " line; wrong = 1 }
        for (how in n) printf "%s: %d of %d found\n", how, seen[how], n[how]
        printf "%d damages, %d bits of metrics.jsonl not seen\n", total, unseen
        exit wrong
    }' said damages
! grep -qE 'Segmentation|Address not mapped|signal' log || { cat log; exit 1; }

# One file alone, which all ranks check together.
for copy in 0001 0002 0011 0016; do
    verify 2 "copies/$copy/hybrid/weights.h5"
    says "copies/$copy/hybrid/weights.h5: "
    says '1 damaged, 0 missing'
done

# ---- wrong, under a seal that is right --------------------------------------------------------------------

while IFS='|' read -r change rc what; do
    "$GR_BUILD/tests/jobs/drive_reseal" run/hybrid/weights.h5 "$change.h5" "$change" >log 2>&1 || { cat log; exit 1; }
    verify "$rc" "$change.h5"
    says "$what"
done <<'LIST'
same|0|2 attn, 2 gdn
drop|2|tensor "model.norm.weight" is missing
extra|2|tensor "model.extra.weight" is not part of this model
shape|2|tensor "model.norm.weight" is [63, 1] (rank 1), its config.json says [64, 1]
nan|2|tensor "model.norm.weight" (1 dimensions): NaN or Inf at [32
config|2|model_type "mystery"
pattern|2|pattern
program|2|no attribute "program"
inputs|2|damaged
LIST
verify 0 nan.h5 verify.deep=false

# ---- what a run leaves behind when it dies, and what was set aside -------------------------------------

cp -a run/align dying
mkdir dying/ckpt/.tmp-step-00000011-1-2-3 dying/ckpt/bad-step-00000003-1-2-3
echo garbage >dying/ckpt/.tmp-step-00000011-1-2-3/shard-00000-of-00001.h5
mkfifo dying/fifo
ln -s ../run dying/link
ln -s . dying/loop
verify 0 dying verify.all=true
says '.tmp-step-00000011-1-2-3: being written'
says 'bad-step-00000003-1-2-3: a damaged checkpoint that was set aside'
says 'dying/fifo: neither a file nor a directory'
says 'dying/loop: a symbolic link to a directory: not entered'
rm dying/weights.h5
verify 2 dying
says 'dying/weights.h5: graft-align made this'
rm dying/graft.json
verify 2 dying
says 'dying/weights.h5: all 10 steps are done, but this is not there'
printf '{"step":7,"torn' >tail
sed -n '1,7p' run/align/metrics.jsonl | cat - tail >dying/metrics.jsonl
rm -r dying/ckpt/step-00000010
verify 0 dying
says 'not finished: step 7 of 10, saved 7'
says 'the last line is torn'
rm -r dying/ckpt/step-00000007
verify 2 dying
says 'dying/ckpt: 7 steps are done, one is saved every 7, but none is there'

# ---- where it comes from -------------------------------------------------------------------------------

mv run/hybrid/weights.h5 aside.h5
verify 0 run/align
says 'run/hybrid (content '
says '), which is not there'
cp run/align/weights.h5 run/hybrid/weights.h5
verify 0 run/align
says ', which is there, but different (content '
