#!/usr/bin/env bash
# graft-report: numbers of hand-made runs come out in JSON, Markdown, table and plots; bad ones are refused by name.
#TEST np: 2
#TEST timeout: 90
set -u
report=$GR_BUILD/bin/graft-report
cd "$GR_TEST_DIR" || exit 1
bad=0

# expect TEXT COMMAND...: silent success, or one complaint
expect()
{
    local what=$1
    shift
    "$@" || { echo "FAILED: $what"; bad=1; }
}

# ---- what the stages would have left ------------------------------------------------------------

mkdir -p pretrain align distill eval/{teacher,converted,aligned,longer}
awk 'BEGIN { for (s = 1; s <= 400; s++)
    printf "{\"step\":%d,\"loss\":%.6g,\"ce\":%.6g,\"kl\":null,\"lr\":0.001,\"tokens\":%d,\"tokens_per_s\":4096}\n",
           s, 2 + 6 / s, 2 + 6 / s, s * 2048 }' >pretrain/metrics.jsonl
awk 'BEGIN { for (s = 1; s <= 50; s++) {
    printf "{\"step\":%d,\"loss\":%.6g,\"layers\":[%.6g,%.6g],\"layer_ids\":[1,3],\"tokens\":%d}\n",
           s, 0.75 / s, 1 / s, 0.5 / s, s * 1024
    if (s == 25) print "{\"step\":25,\"tokens\":25600,\"heldout_loss\":0.03}" } }' >align/metrics.jsonl
awk 'BEGIN { for (s = 1; s <= 9; s++)
    printf "{\"step\":%d,\"loss\":%g,\"ce\":%g,\"kl\":%g,\"tokens\":%d}\n", s, 3 / s, 4 / s, 2 / s, s * 100 }' >distill/metrics.jsonl
echo '{"perplexity": 20.5, "loss": 3.02, "tokens": 65536, "seconds": 3, "weights": "w"}'           >eval/teacher/results.json
echo '{"perplexity": 820, "loss": 6.71, "tokens": 65536, "kl": 3.25, "seconds": 3, "weights": "w"}' >eval/converted/results.json
echo '{"perplexity": 30.75, "loss": 3.43, "tokens": 65536, "kl": null, "seconds": 3}'              >eval/aligned/results.json
echo '{"perplexity": 19.25, "loss": 2.96, "tokens": 65536, "seconds": 3}'                          >eval/longer/results.json
printf 'pretrain\t100\tstopped\nconvert\t0.5\npretrain\t21.5\nalign\t40\n' >seconds.tsv # pretrain in two pieces

cat >report.yaml <<'END'
run: {out: out}
report:
  title: 'Test "quoted"'
  stages: [pretrain=pretrain, align=align, distill=distill]
  models:
    - teacher:pretrain=eval/teacher
    - converted:convert=eval/converted
    - aligned:align=eval/aligned
    - aligned@512=eval/longer
  seconds: seconds.tsv
  ranks: 7
END
mpirun -n "$GR_NP" "$report" report.yaml >table 2>log || { cat log; echo "FAILED: exit $?"; exit 1; }

# ---- report.json --------------------------------------------------------------------------------

cat >wanted <<'END'
aligned_last=0.0101020 converted=820 kl=converted ratio=1.5 at512=19.25
seconds=pretrain:121.5,convert:0.5,align:40 total=162
tokens=pretrain:819200,align:51200,distill:900
gain=aligned:64.129
layers=1,3 ranks=7 title=Test "quoted" models=aligned,converted,teacher
END
perl -MJSON::PP -0777 -e '
my $r = JSON::PP->new->decode(<STDIN>);
my ($p, $l, $s, $t) = @$r{qw(perplexity layer_error seconds tokens)};
printf "aligned_last=%.7f converted=%g kl=%s ratio=%g at512=%g\n", $l->{align}{3}{last} , $p->{converted},
    join(",", sort keys %{$r->{kl}}), $r->{ratio}{aligned}, $r->{perplexity_at}{512}{aligned};
printf "seconds=%s total=%g\n", join(",", map { "$_:$s->{$_}" } qw(pretrain convert align)), $r->{seconds_total};
printf "tokens=%s\n", join(",", map { "$_:$t->{$_}" } qw(pretrain align distill));
printf "gain=%s\n", join(",", map { sprintf "%s:%.3f", $_, $r->{gain_per_million}{$_} } sort keys %{$r->{gain_per_million}});
printf "layers=%s ranks=%d title=%s models=%s\n", join(",", sort keys %{$l->{align}}), $r->{hardware}{ranks}, $r->{title},
    join(",", sort keys %$p);
die "members" if grep { !defined $r->{$_} || $r->{$_} eq "" } qw(date version commit config hardware loss scored_tokens);
' <out/report.json >found || bad=1
expect "report.json" diff wanted found

# ---- report.md, the table, the plots ------------------------------------------------------------

expect "row in report.md"  grep -q '^| aligned | 30.75 | 1.500 | - | 51.2 k | 40.0 | 64.1 |$' out/report.md
expect "row of a table"    grep -qE '^  converted +820\.00 +40\.000 +3\.2500 +- +0\.5 +-$' table
expect "other context"     grep -q 'at context 512: aligned 19.25' table
expect "reference"         grep -qE '^  teacher +20\.50 +1\.000 +- +819 k +121\.5 +-$' table
for plot in $(sed -n 's/^!\[.*(\(.*\))$/\1/p' out/report.md); do echo "$plot"; done | LC_ALL=C sort >plots
expect "plots" diff plots <(cd out && LC_ALL=C ls ./*.svg | sed 's|^\./||')
expect "number of plots" test "$(wc -l <plots)" = 4
while read -r plot; do
    expect "$plot is whole" grep -q '</svg>' "out/$plot"
done <plots
expect "axis of loss_pretrain"  grep -q 'thousand tokens' out/loss_pretrain.svg
expect "KL in loss_distill"     grep -q 'KL to the teacher' out/loss_distill.svg
expect "no KL in loss_pretrain" bash -c '! grep -q "KL to" out/loss_pretrain.svg'
expect "held-out in loss_align"  grep -q 'held-out' out/loss_align.svg
expect "layers by number"       grep -q 'layer 3' out/align_layers.svg
expect "nothing else left"      test "$(ls -A out | wc -l)" = 6

# ---- what must be refused ------------------------------------------------------------------------

# refuse TEXT ARGUMENT...: exit 2 with one line holding TEXT, and no report
refuse()
{
    local text=$1 rc
    shift
    rm -rf out
    "${launch[@]}" report.yaml "$@" >table 2>log
    rc=$?
    [ $rc = 2 ] && grep -qF -- "$text" log && [ ! -e out/report.json ] && [ ! -e out/report.md ] && return
    echo "FAILED: wanted exit 2 and '$text', found exit $rc and:"
    cat log
    bad=1
}

launch=(mpirun -n "$GR_NP" "$report")
refuse "nowhere/metrics.jsonl"        'report.stages=[align=nowhere]'
launch=("$report") # one rank, which starts sooner
refuse "is not 'stage=directory'"     'report.stages=[align]'
refuse "a name is"                    'report.stages=[a/b=align]'
refuse "'align' twice"                'report.stages=[align=align, align=align]'
refuse "eval/results.json"            'report.models=[teacher=eval]'
refuse "a context length"             'report.models=[teacher=eval/teacher, long@far=eval/longer]'
refuse "nothing.tsv"                  report.seconds=nothing.tsv

mkdir -p bad
head -c 1000 pretrain/metrics.jsonl >bad/metrics.jsonl
refuse "bad/metrics.jsonl:$(wc -l <bad/metrics.jsonl | awk '{ print $1 + 1 }'): torn" 'report.stages=[x=bad]'
{ head -n 3 pretrain/metrics.jsonl; echo '{"step":4,'; } >bad/metrics.jsonl
refuse "bad/metrics.jsonl:4"          'report.stages=[x=bad]'
head -n 3 pretrain/metrics.jsonl | sed 's/"step":3/"step":2/' >bad/metrics.jsonl
refuse "step 2 after step 2"          'report.stages=[x=bad]'
{ head -n 2 align/metrics.jsonl; echo '{"step":3,"loss":1,"layers":[1]}'; } >bad/metrics.jsonl
refuse "1 layers"                     'report.stages=[x=bad]'
: >bad/metrics.jsonl
refuse "bad/metrics.jsonl: empty"     'report.stages=[x=bad]'
echo '{"loss": 3.02, "tokens": 1}' >bad/results.json
refuse 'bad/results.json: perplexity'  'report.models=[x=bad]'
echo '{"perplexity": 3' >bad/results.json
refuse 'bad/results.json'             'report.models=[x=bad]'
printf 'align\tlong\n' >bad/seconds.tsv
refuse "bad/seconds.tsv:1"            report.seconds=bad/seconds.tsv

mkdir -p bin && ln -sf "$(command -v orted)" bin/ # all that Open MPI needs, and no gnuplot
rm -rf out
PATH=$PWD/bin OMPI_MCA_plm_rsh_agent=/bin/false "$report" report.yaml >table 2>log
rc=$?
expect "exit 2 without gnuplot, not $rc" test $rc = 2
expect "gnuplot is named" grep -q 'gnuplot-nox' log
exit $bad
