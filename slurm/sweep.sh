#!/usr/bin/env bash
# Submit a sweep: one array job, one element per member, each member a line of a table.
#
#     slurm/sweep.sh TABLE [--stages "convert align evaluate"] [--shared "teacher"] [--model 8b] [--configs DIR] [--throttle K]
#                    [--out DIR] [--dry-run]
#
#   TABLE       lines "name<TAB>key=value key=value ..."; # starts a comment. A key with a stage in front, as in
#               align:optim.lr=1e-4, is for that stage; without, it is for every stage of the sweep.
#   --stages    what a member goes through, in order; each takes the product of the one before
#   --shared    stages that run once, before the members, one after the other: jobs like those of pipeline.sh
#   --model     scripts and configurations, as for pipeline.sh; the members' keys win over the configurations
#   --throttle  members that run at once (default 4)
#   --out       the sweep's directory (default runs/sweeps/NAME-OF-TABLE); member NAME goes to OUT/NAME/STAGE
#
# A line "#stages: convert align evaluate" in the table, and such a one for shared, model, configs and out, is for the option that is
# not given; graft-sweep writes them (slurm/sweep_mixers.sh).
#
# The table is copied into the directory (members.tsv). It may grow; where a member is changed or gone, it is another table, and needs
# another directory. Run the same command again until nothing is missing: finished members are not submitted again, unfinished ones
# go on where they are. After the last element a report job ranks the members and says which are missing: OUT/report.txt, report.md, report.json, loss_STAGE.svg.
set -euo pipefail

# shellcheck source=slurm/submit.sh
. "$(dirname "${BASH_SOURCE[0]}")/submit.sh"

usage() { sed -n '/^#  *slurm/,/^#   --out/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

said() # WHAT DEFAULT: what the table says itself
{
    local value
    value=$(sed -n "s/^#$1: *//p" "$table" | head -n 1)
    echo "${value:-$2}"
}

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
    for stage in $shared; do require_stage "$stage"; done
    members=$(normalise) || exit 2
    local header="#stages: $stages"$'\n'"#configs: $configs" table_of=$out/members.tsv
    if [ -f "$table_of" ]; then
        ! grep -qvxF "$header"$'\n'"$members" "$table_of" ||
            die "$out was made from another table, or with other stages or configurations: give another --out"
        # New members come last: jobs that wait know theirs by its number.
        members=$(grep -v '^#' "$table_of"; grep -vxFf "$table_of" <<<"$members" || true)
    fi
    [ -n "$dry" ] || write_table
}

write_table()
{
    mkdir -p "$out"
    printf '%s\n' "$header" "$members" >"$table_of.tmp" && mv "$table_of.tmp" "$table_of"
}

missing() # line numbers of members that are not done, as a list for --array; members count from 1
{
    local name i=0
    while read -r name; do
        i=$((i + 1))
        [ -e "$out/$name/DONE" ] || echo $i
    done < <(cut -f1 <<<"$members") | paste -sd,
}

submit_shared() # sets `after`, what the members wait for
{
    local stage before=""
    after=()
    for stage in $shared; do
        before=$(submit_stage "$stage" "$before")
        [ -n "$dry" ] || echo "$stage $before"
    done
    [ -z "$before" ] || after=(--kill-on-invalid-dep=yes --dependency="afterok:$before")
}

argument=table options="stages shared model configs throttle out"
table="" stages="" shared="" model="" configs="" throttle=4 out=""
read_command_line "$@"
[ -f "$table" ] || die "no table $table"
[[ $throttle =~ ^[1-9][0-9]*$ ]] || die "--throttle $throttle: a number"
stages=${stages:-$(said stages "convert align evaluate")}
shared=${shared:-$(said shared "")}
model=${model:-$(said model 8b)}
configs=${configs:-$(said configs "$GRAFT_HOME/configs/qwen3_$model")}
name=${table##*/}
out=${out:-$(said out "runs/sweeps/${name%.*}")}
load_site
freeze
todo=$(missing)
[ -n "$todo" ] || { echo "$out: every member is done"; exec "$GRAFT_HOME/slurm/sweep_report.sh" "$out"; }
submit_shared
array=$(submit members --job-name="sweep_${out##*/}" --array="$todo%$throttle" "${after[@]}" "${GRAFT_SBATCH[@]}" \
    "$GRAFT_HOME/slurm/sweep_member.sh" "$out")
[ -n "$dry" ] || echo "members $array"
report=$(submit report --job-name="report_${out##*/}" --dependency="afterany:$array" "$GRAFT_HOME/slurm/sweep_report.sh" "$out")
[ -n "$dry" ] || echo "report $report"
