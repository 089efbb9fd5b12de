#!/usr/bin/env bash
# Submit a sweep: one array job, one element per member, each member a line of a table.
#
#     slurm/sweep.sh TABLE [--stages "convert align evaluate"] [--model 8b] [--configs DIR] [--throttle K] [--out DIR] [--dry-run]
#
#   TABLE       lines "name<TAB>key=value key=value ..."; # starts a comment. A key with a stage in front, as in
#               align:optim.lr=1e-4, is for that stage; without, it is for every stage of the sweep.
#   --stages    what a member goes through, in order; each takes the product of the one before
#   --model     scripts and configurations, as for pipeline.sh; the members' keys win over the configurations
#   --throttle  members that run at once (default 4)
#   --out       the sweep's directory (default runs/sweeps/NAME-OF-TABLE); member NAME goes to OUT/NAME/STAGE
#
# The table is copied into the directory and fixed by that: another table needs another directory. Run the same command again
# until nothing is missing: finished members are not submitted again, unfinished ones go on where they are. After the last element
# a report job writes OUT/report.txt: members, their results, and which are missing.
set -euo pipefail

# shellcheck source=slurm/submit.sh
. "$(dirname "${BASH_SOURCE[0]}")/submit.sh"

usage() { sed -n '/^#  *slurm/,/^#   --out/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

# Comments and empty lines go; what is left must be names that can be directories, each once, and key=value.
normalise()
{
    sed 's/#.*//; s/[[:space:]]*$//; /^$/d' "$table" | awk -F'\t' '
        $1 !~ /^[A-Za-z0-9][A-Za-z0-9._-]*$/ { print "sweep.sh: not a name: " $1 > "/dev/stderr"; exit 2 }
        seen[$1]++ { print "sweep.sh: " $1 " appears twice" > "/dev/stderr"; exit 2 }
        { n = split($2, key, " "); for (i = 1; i <= n; i++) if (key[i] !~ /^([a-z]+:)?[a-z]+\.[a-z0-9_]+=/) {
            print "sweep.sh: " $1 ": not a section.key=value: " key[i] > "/dev/stderr"; exit 2 } }
        { print }
        END { if (!NR) { print "sweep.sh: no members" > "/dev/stderr"; exit 2 } }'
}

freeze()
{
    local stage
    for stage in $stages; do [ -f "$configs/$stage.yaml" ] || die "no $configs/$stage.yaml"; done
    members=$(normalise) || exit 2
    frozen="#stages: $stages"$'\n'"#configs: $configs"$'\n'"$members"
    if [ -f "$out/members.tsv" ]; then
        [ "$frozen" = "$(cat "$out/members.tsv")" ] ||
            die "$out was made from another table, or with other stages or configurations: give another --out"
    elif [ -z "$dry" ]; then
        mkdir -p "$out"
        printf '%s\n' "$frozen" >"$out/members.tsv.tmp" && mv "$out/members.tsv.tmp" "$out/members.tsv"
    fi
}

missing() # line numbers of members that are not done, as a list for --array; members count from 1
{
    local name i=0
    while read -r name; do
        i=$((i + 1))
        [ -e "$out/$name/DONE" ] || echo $i
    done < <(cut -f1 <<<"$members") | paste -sd,
}

argument=table options="stages model configs throttle out"
table="" stages="convert align evaluate" model=8b configs="" throttle=4 out=""
read_command_line "$@"
[ -f "$table" ] || die "no table $table"
[[ $throttle =~ ^[1-9][0-9]*$ ]] || die "--throttle $throttle: a number"
configs=${configs:-$GRAFT_HOME/configs/qwen3_$model}
[ -n "$out" ] || { out=${table##*/} out=runs/sweeps/${out%.*}; }
load_site
freeze
todo=$(missing)
[ -n "$todo" ] || { echo "$out: every member is done"; exec "$GRAFT_HOME/slurm/sweep_report.sh" "$out"; }
array=$(submit members --job-name="sweep_${out##*/}" --array="$todo%$throttle" "${GRAFT_SBATCH[@]}" \
    "$GRAFT_HOME/slurm/sweep_member.sh" "$out")
[ -n "$dry" ] || echo "members $array"
report=$(submit report --job-name="report_${out##*/}" --dependency="afterany:$array" "$GRAFT_HOME/slurm/sweep_report.sh" "$out")
[ -n "$dry" ] || echo "report $report"
