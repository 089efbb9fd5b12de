#!/bin/bash
# The members of a sweep, ranked, and which are missing: slurm/sweep_report.sh DIRECTORY. Prints report.txt, and writes it there with
# report.md, report.json and plots (graft-report); exit code 1 when members are missing. At any time; slurm/sweep.sh submits it to
# run after the last member.
#SBATCH --job-name=report --nodes=1 --ntasks=1 --time=0:10:00
#SBATCH --output=logs/%x.%j.log
set -euo pipefail
sweep=${1:?usage: slurm/sweep_report.sh DIRECTORY}
sweep=${sweep%/}

# By hand this file lies in the clone; Slurm runs a copy of it.
here=$(dirname "${BASH_SOURCE[0]}")
[ -f "$here/submit.sh" ] || here=${GRAFT_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm
# shellcheck source=slurm/submit.sh
. "$here/submit.sh"
[ -f "$sweep/members.tsv" ] || die "no sweep in $sweep: no members.tsv"
dry=yes load_site

plots=true
command -v gnuplot >/dev/null || { plots=false; echo "no gnuplot here: no plots"; }
rc=0
alone "${GR_BUILD:-$GRAFT_HOME/build}/bin/graft-report" run.out="$sweep" report.sweep="$sweep" report.title="${sweep##*/}" \
    report.plots=$plots >"$sweep/report.txt.tmp" || rc=$?
if [ -s "$sweep/report.txt.tmp" ]; then
    mv "$sweep/report.txt.tmp" "$sweep/report.txt"
    cat "$sweep/report.txt"
else
    rm -f "$sweep/report.txt.tmp"
fi
[ $rc -eq 0 ] || exit $rc
! grep -q '^missing: ' "$sweep/report.txt" || exit 1
