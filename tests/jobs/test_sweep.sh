#!/usr/bin/env bash
# A sweep over layer types, from its YAML to the ranking: what graft-sweep expands and refuses; a tiny sweep, its members run by
# slurm/sweep_member.sh with srun and the variables of a job played by this script; one that fails, is mended and run again; the
# ranking against numbers computed here from what the members left. On a real Slurm: tests/slurm/test_cluster.sh.
#TEST np: 1
#TEST timeout: 420
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$dir"

fail() { echo "FAILED: $*"; exit 1; }

sweep() # ARGUMENT...
{
    "$bin/graft-sweep" run.out=runs/sweep sweep.configs=configs "$@"
}

refused() # TEXT ARGUMENT...: exit code 2 with a message that holds TEXT, and no table
{
    local text=$1 rc=0
    shift
    "$@" >table 2>log || rc=$?
    [ $rc -eq 2 ] && grep -qF -- "$text" log && [ ! -s table ] || { cat log table; fail "$*: exit $rc, not 2 with: $text"; }
}

# ---- configurations of the stages -------------------------------------------------------------------

mkdir configs
config() { cat >"configs/$1.yaml"; } # NAME, YAML on stdin

config base <<YAML
data: {shards: shards, context: 48, micro_batch: 2}
train: {batch: 4, steps: 6, log_every: 1000}
checkpoint: {every: 4}
YAML
config teacher <<YAML
base: base.yaml
run: {out: runs/logits}
model: {weights: teacher}
logits: {k: 8}
YAML
config convert <<YAML
run: {out: runs/unused}
model: {weights: teacher}
convert: {pattern: "(attn,gdn)"}
YAML
config align <<YAML
base: base.yaml
run: {out: runs/unused}
model: {weights: runs/unused}
teacher: {weights: teacher}
optim: {lr: 2e-3}
YAML
config distill <<YAML
base: base.yaml
run: {out: runs/unused}
model: {weights: runs/unused}
distill: {logits: runs/logits}
optim: {lr: 1e-3}
YAML
config evaluate <<YAML
run: {out: runs/unused}
model: {weights: runs/unused}
evaluate: {shards: shards, teacher: teacher, context: 48, micro_batch: 8, tokens: 960}
YAML

# ---- what is expanded -------------------------------------------------------------------------------

stages='sweep.stages=[convert, align, distill, evaluate]'
sweep "$stages" 'sweep.shared=[teacher]' 'sweep.types=[gdn]' 'sweep.ratios=[0.50, 2/3, 1]' 'sweep.seeds=[1, 7]' \
    sweep.patterns=top=attn:2,gdn:2 'sweep.keys=[train.steps=9, gdn@align:optim.lr=1e-4, "top@align:train.steps=5"]' >table
cat >wanted <<'END'
#out: runs/sweep
#model: 8b
#shared: teacher
#configs: configs
#stages: convert align distill evaluate
gdn_0.50_s1	convert:convert.pattern=uniform(attn:1,gdn:1) convert:convert.seed=1 align:train.seed=1 distill:train.seed=1 align:train.steps=9 distill:train.steps=9 align:optim.lr=1e-4
gdn_0.50_s7	convert:convert.pattern=uniform(attn:1,gdn:1) convert:convert.seed=7 align:train.seed=7 distill:train.seed=7 align:train.steps=9 distill:train.steps=9 align:optim.lr=1e-4
gdn_2of3_s1	convert:convert.pattern=uniform(attn:1,gdn:2) convert:convert.seed=1 align:train.seed=1 distill:train.seed=1 align:train.steps=9 distill:train.steps=9 align:optim.lr=1e-4
gdn_2of3_s7	convert:convert.pattern=uniform(attn:1,gdn:2) convert:convert.seed=7 align:train.seed=7 distill:train.seed=7 align:train.steps=9 distill:train.steps=9 align:optim.lr=1e-4
gdn_1_s1	convert:convert.pattern=uniform(gdn) convert:convert.seed=1 align:train.seed=1 distill:train.seed=1 align:train.steps=9 distill:train.steps=9 align:optim.lr=1e-4
gdn_1_s7	convert:convert.pattern=uniform(gdn) convert:convert.seed=7 align:train.seed=7 distill:train.seed=7 align:train.steps=9 distill:train.steps=9 align:optim.lr=1e-4
top_s1	convert:convert.pattern=attn:2,gdn:2 convert:convert.seed=1 align:train.seed=1 distill:train.seed=1 align:train.steps=9 distill:train.steps=9 align:train.steps=5
top_s7	convert:convert.pattern=attn:2,gdn:2 convert:convert.seed=7 align:train.seed=7 distill:train.seed=7 align:train.steps=9 distill:train.steps=9 align:train.steps=5
END
diff wanted table || fail "the table"
sweep "$stages" sweep.types=gdn sweep.ratios=0.75 | grep -x $'gdn_0.75\tconvert:convert.pattern=uniform(attn:1,gdn:3)' ||
    fail "without seeds a member is its candidate"

# ---- what is refused --------------------------------------------------------------------------------

plain=("$stages" sweep.types=gdn sweep.ratios=0.5 'sweep.seeds=[1, 2]')
refused "unknown mixer 'lstm'; there are: attn"    sweep "${plain[@]}" 'sweep.types=[gdn, lstm]'
refused "'attn' is what the others"                sweep "${plain[@]}" sweep.types=attn
for ratio in 0 0.0 1.5 3/2 0/4 1/0 -1 half 0.5x 1/ ./2 9999999999 ''; do
    refused "sweep.ratios"                         sweep "${plain[@]}" sweep.ratios="$ratio"
done
refused "1/3, not 0.333"                           sweep "${plain[@]}" sweep.ratios=0.333
refused "two members are called gdn_0.5_s1"        sweep "${plain[@]}" 'sweep.seeds=[1, 1]'
refused "two members are called gdn_0.5_s1"        sweep "${plain[@]}" 'sweep.patterns=gdn_0.5=(gdn)'
refused "gdn_0.5_s1 and gdn_0.50_s1 are the same"  sweep "${plain[@]}" 'sweep.ratios=[0.5, 0.50]'
refused "'convert.seed=x': expected an integer"   sweep "${plain[@]}" sweep.seeds=x
refused "a name begins with"                       sweep "${plain[@]}" 'sweep.patterns=../a=(gdn)'
refused "is not 'name=pattern'"                    sweep "${plain[@]}" 'sweep.patterns=(gdn)'
refused "blanks and #"                             sweep "${plain[@]}" 'sweep.patterns=a=(attn, gdn)'
refused "go together"                              sweep "$stages" sweep.types=gdn
refused "no members"                               sweep "$stages"
refused "'conwert' is no stage"                    sweep "${plain[@]}" 'sweep.stages=[conwert]'
refused "'align' twice"                            sweep "${plain[@]}" 'sweep.stages=[convert, align, align]'
refused "without 'convert'"                        sweep "${plain[@]}" 'sweep.stages=[align]'
refused "configs/extend.yaml"                      sweep "${plain[@]}" 'sweep.stages=[convert, extend]'
refused "no candidate is of type or pattern 'gka'" sweep "${plain[@]}" sweep.keys=gka@optim.lr=1
refused "no stage of the members has the key"      sweep "${plain[@]}" sweep.keys=optim.lrr=1
refused "called evaluate has the key optim.lr"     sweep "${plain[@]}" sweep.keys=evaluate:optim.lr=1
refused "is not '[CANDIDATE@][STAGE:]section"      sweep "${plain[@]}" sweep.keys=optim.lr
refused "the sweep itself sets it"                 sweep "${plain[@]}" sweep.keys=run.out=x
refused "seeds come from sweep.seeds"              sweep "${plain[@]}" sweep.keys=align:train.seed=1
refused "member gdn_0.5_s1, stage align: argument 'optim.lr=fast'" sweep "${plain[@]}" sweep.keys=optim.lr=fast
refused "but the shared teacher writes runs/logits" \
    sweep "${plain[@]}" 'sweep.shared=[teacher]' sweep.keys=distill:distill.logits=elsewhere

# ---- what is submitted ------------------------------------------------------------------------------

# The sweep of the rest of this test. A second type, when this build has one.
"$bin/graft-sweep" run.out=x sweep.configs=configs "$stages" sweep.types=none sweep.ratios=1 2>log || true
second=$(sed -n 's/.*there are: attn, //p' log | tr -d ',' | tr ' ' '\n' | grep -vx gdn | grep -xm 1 'mamba2\|gka\|mamba3') || true
types="gdn${second:+, $second}"
echo "types: $types"
cat >mixers.yaml <<YAML
run: {out: runs/sweep}
sweep:
  configs: configs
  shared: [teacher]
  stages: [convert, align, distill, evaluate]
  types: [$types]
  ratios: [0.5]
  seeds: [1, 2]
  patterns:
    - top=attn:2,gdn:2
  keys:
    - top@align:data.shards=later
YAML
export GRAFT_SITE=none
submit=("$top/slurm/sweep_mixers.sh" mixers.yaml --throttle 3)
"${submit[@]}" --dry-run >lines
n=$((4 + (${#second} > 0 ? 2 : 0)))
all=$(seq -s'\\,' $n)
grep -q 'GRAFT_CONFIG=.*configs/teacher.yaml.* sbatch .*/slurm/teacher_8b.sh$' lines
grep -q -- "--array=${all//\\\\/.}%3 .*--dependency=afterok:JOB-OF-teacher .*/slurm/sweep_member.sh runs/sweep\$" lines
grep -q -- '--dependency=afterany:JOB-OF-members .*/slurm/sweep_report.sh runs/sweep$' lines
[ "$(wc -l <lines)" -eq 3 ]
[ ! -e runs ] || fail "a dry run leaves something"
refused "unknown mixer 'lstm'" "${submit[@]}" sweep.types=lstm --dry-run
refused "slurm/teacher_9b.sh: unknown model 9b" "${submit[@]}" sweep.model=9b --dry-run

# sbatch as far as sweep.sh sees it: an id, and what was asked for
mkdir bin
cat >bin/sbatch <<'SH'
#!/bin/bash
echo "$*" >>submitted
wc -l <submitted
SH
# srun, for one rank
cat >bin/srun <<'SH'
#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for v in $(compgen -e); do case $v in SLURM_*) unset "$v" ;; esac; done
exec mpirun -n 1 "$@"
SH
chmod +x bin/*
PATH=$dir/bin:$PATH

asked() # what the last submission wants of the array
{
    sed -n 's/.*--array=\([^ ]*\)%3 .*/\1/p' submitted | tail -n 1
}

members() # run those that the last submission asked for, as Slurm would
{
    local i
    for i in $(asked | tr , ' '); do
        env SLURM_JOB_ID=1 SLURM_ARRAY_JOB_ID=1 SLURM_ARRAY_TASK_ID="$i" SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=here \
            SLURM_CPUS_ON_NODE=1 GRAFT_RANKS_PER_NODE=1 GRAFT_HOME="$top" GRAFT_SRUN=srun \
            bash "$top/slurm/sweep_member.sh" runs/sweep >"member$i.log" 2>&1 || echo "$i ended with $?"
    done
}

# ---- the members ------------------------------------------------------------------------------------

make_corpus
make_model
graft 1 teacher configs/teacher.yaml
"${submit[@]}" | grep '^members 2$'
[ "$(asked)" = "$(seq -s, $n)" ] || fail "all members: $(asked)"
rc=0
"$bin/graft-report" run.out=nothing report.sweep=runs/sweep report.plots=false >table 2>log || rc=$?
[ $rc -eq 2 ] && grep -q 'no member has begun' log && grep -q '^missing: gdn_0.5_s1 ' table || fail "nothing has begun: exit $rc"
members | tee ended
printf '%d ended with 2\n' $((n - 1)) "$n" | diff - ended || fail "only top has no text"

rc=0
"$top/slurm/sweep_report.sh" runs/sweep >report1 || rc=$?
[ $rc -eq 1 ] || fail "members are missing, but the report exits with $rc"
grep -qx 'missing: top_s1 top_s2' report1
grep -qE '^ +- +top +0 of 2 ' report1
grep -qE '^  top_s2 +align is next ' report1

ln -s shards later
"${submit[@]}" >/dev/null
[ "$(asked)" = "$((n - 1)),$n" ] || fail "only what is missing: $(asked)"
members | grep . && fail "a member ends with an error"
grep -q 'is complete: nothing to do' "member$n.log" || fail "convert was done already"
"${submit[@]}" | grep 'every member is done'

# A sweep may grow, and its members keep their numbers; it may not change.
"${submit[@]}" 'sweep.seeds=[3, 2, 1]' --dry-run >lines
grep -q -- "--array=$((n + 1))[^%]*$((n + n / 2))%3 " lines || fail "new members come last"
refused "made from another table" "${submit[@]}" sweep.seeds=1
refused "made from another table" "${submit[@]}" sweep.keys=align:train.steps=7
[ "$(grep -vc '^#' runs/sweep/members.tsv)" -eq "$n" ]

# ---- the ranking ------------------------------------------------------------------------------------

# From the members' own files: "name done perplexity kl tokens", and per candidate "name n mean sd min max", best first,
# and how far it is behind the best: "mean sd" over pairs of the same seed.
cat >recompute.pl <<'PL'
use strict; use JSON::PP; use List::Util qw(sum min max);
sub slurp { local (@ARGV, $/) = @_; <> }
sub sd { my $mean = sum(@_) / @_; sqrt(sum(map { ($_ - $mean) ** 2 } @_) / (@_ - 1)) }
my (%of, @best);
for (split /\n/, slurp("runs/sweep/members.tsv")) {
    next if /^#/;
    my ($name) = split /\t/;
    my $r = decode_json slurp("runs/sweep/$name/evaluate/results.json");
    my $tokens = 0;
    for my $stage (qw(align distill)) {
        my @line = grep { /"loss"/ } split /\n/, slurp("runs/sweep/$name/$stage/metrics.jsonl");
        $tokens += decode_json($line[-1])->{tokens};
    }
    printf "%s %.9g %.9g %d\n", $name, $r->{perplexity}, $r->{kl}, $tokens;
    (my $candidate = $name) =~ s/_s[0-9]+$//;
    push @{$of{$candidate}}, $r->{perplexity}; # in the order of the seeds
}
my %mean = map { $_ => sum(@{$of{$_}}) / @{$of{$_}} } keys %of;
for my $c (sort { $mean{$a} <=> $mean{$b} } keys %of) {
    my @x = @{$of{$c}};
    @best = @x if !@best;
    my @behind = map { log($x[$_] / $best[$_]) } 0 .. $#x;
    printf "%s %d %.9g %.9g %.9g %.9g %.6g %.6g\n", $c, scalar @x, $mean{$c}, sd(@x), min(@x), max(@x), sum(@behind) / @behind, sd(@behind);
}
PL
cat >reported.pl <<'PL'
use strict; use JSON::PP;
my $r = decode_json join "", <STDIN>;
printf "%s %.9g %.9g %d\n", @$_{qw(name perplexity kl tokens)} for @{$r->{members}};
my $rank = 0;
for (@{$r->{candidates}}) {
    die "rank" if $_->{rank} != ++$rank;
    printf "%s %d %.9g %.9g %.9g %.9g %.6g %.6g\n", $_->{name}, $_->{seeds_done}, @{$_->{perplexity}}{qw(mean sd min max)},
        @{$_->{behind}}{qw(mean sd)};
}
die "missing" if @{$r->{missing}};
for my $m (@{$r->{members}}) { $m->{loss}{$_} > 0 or die "$m->{name}: no loss of $_" for qw(align distill) }
PL
perl recompute.pl >wanted
perl reported.pl <runs/sweep/report.json >found
diff wanted found || fail "report.json"
[ "$(wc -l <wanted)" -eq $((n + n / 2)) ]
[ "$(cut -d' ' -f2 wanted | head -n "$n" | sort -u | wc -l)" -gt 2 ] || fail "all members are alike: nothing was compared"

best=$(sed -n "$((n + 1))s/ .*//p" wanted)
grep -qE "^ +1 +$best +2 of 2 " runs/sweep/report.txt || fail "$best is not first in report.txt"
grep -q "^| 1 | $best | 2 of 2 |" runs/sweep/report.md || fail "$best is not first in report.md"
for stage in align distill; do
    grep -q "^!\[.*(loss_$stage.svg)$" runs/sweep/report.md
    grep -q '</svg>' runs/sweep/loss_$stage.svg
    [ "$(grep -c '<title>gnuplot_plot_' runs/sweep/loss_$stage.svg)" -eq "$n" ] || fail "a curve for each member of $stage"
    for candidate in $(sed -n "$((n + 1)),\$s/ .*//p" wanted); do
        grep -q ">$candidate<" runs/sweep/loss_$stage.svg || fail "$candidate in the key of $stage"
    done
done
[ ! -e runs/sweep/loss_evaluate.svg ]

# ---- what may be found there --------------------------------------------------------------------------

report() { "$bin/graft-report" run.out=again report.sweep=runs/sweep report.plots=false "$@" >table 2>log; }

# One that runs, whose last record is torn; one that is damaged: the others are ranked without it.
rm runs/sweep/top_s1/DONE runs/sweep/top_s1/distill/graft.json
printf '{"step":7,"lo' >>runs/sweep/top_s1/distill/metrics.jsonl
echo '{"perplexity": 0.5, "tokens": 1}' >runs/sweep/gdn_0.5_s2/evaluate/results.json
report || { cat log; fail "a damaged member"; }
grep -qE '^  top_s1 +distill, step 6 ' table
grep -qE '^  gdn_0.5_s2 +damaged ' table
grep -q 'gdn_0.5_s2/evaluate/results.json: perplexity is 0.5' table
grep -qE '^ +[0-9] +gdn_0.5 +1 of 2 +[0-9.]+ +- ' table
grep -qx 'missing: gdn_0.5_s2 top_s1' table
[ ! -e again/loss_align.svg ] && ! grep -q 'loss_align.svg' again/report.md || fail "report.plots=false"
refused "takes the place of" report report.stages=align=x
refused "no-sweep/members.tsv" "$bin/graft-report" run.out=again report.sweep=no-sweep
refused "must be given, or report.sweep" "$bin/graft-report" run.out=again
mkdir odd && echo 'no_stages' >odd/members.tsv
refused "not a table of slurm/sweep.sh" "$bin/graft-report" run.out=again report.sweep=odd
