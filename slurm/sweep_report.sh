#!/bin/bash
# Which members of a sweep are done, and with what result: slurm/sweep_report.sh RUN-DIRECTORY. Prints and writes report.txt there;
# exit code 1 when members are missing. slurm/sweep.sh submits it to run after the last member.
#SBATCH --job-name=report --nodes=1 --ntasks=1 --time=0:10:00
#SBATCH --output=logs/%x.%j.log
set -euo pipefail
sweep=${1:?usage: slurm/sweep_report.sh RUN-DIRECTORY}

result() # MEMBER: perplexity and KL as evaluate left them, or a dash
{
    local file key
    file=$(find "$sweep/$1" -maxdepth 2 -name results.json 2>/dev/null | sort | tail -n 1)
    for key in perplexity kl; do
        printf '\t%s' "$([ -z "$file" ] || sed -n 's/.*"'"$key"'": \([0-9.e+-]*\).*/\1/p' "$file" | head -n 1)"
    done
}

report()
{
    local name keys state
    printf 'member\tstate\tperplexity\tkl\tkeys\n'
    while IFS=$'\t' read -r name keys; do
        state=MISSING
        [ ! -e "$sweep/$name/DONE" ] || state="done"
        printf '%s\t%s%s\t%s\n' "$name" "$state" "$(result "$name")" "$keys"
    done < <(grep -v '^#' "$sweep/members.tsv")
}

report >"$sweep/report.txt.tmp" && mv "$sweep/report.txt.tmp" "$sweep/report.txt"
cat "$sweep/report.txt"
missing=$(awk -F'\t' '$2 == "MISSING" { print $1 }' "$sweep/report.txt" | paste -sd' ')
[ -z "$missing" ] || { echo "missing: $missing"; exit 1; }
