#!/usr/bin/env bash
# Submit a sweep over layer types: every type at every ratio, with every seed, from one YAML:
#
#     slurm/sweep_mixers.sh CONFIG.yaml [section.key=value ...] [--throttle K] [--out DIR] [--dry-run]
#
#   CONFIG.yaml   of graft-sweep, such as configs/sweeps/mixers_8b.yaml; `graft-sweep --help` lists the keys
#   --...         options of sweep.sh, which see
#
# graft-sweep makes a table of members of it, and refuses what no job could run; sweep.sh submits the table: first the shared
# stages (the teacher's predictions, once), then an array of members, then a report that ranks them. Run the same command
# again until nothing is missing.
set -euo pipefail

# shellcheck source=slurm/submit.sh
. "$(dirname "${BASH_SOURCE[0]}")/submit.sh"

usage() { sed -n '/^#  *slurm/,/^#   --\.\.\./s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

config=() options=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage; exit 0 ;;
    --dry-run) options+=("$1"); shift ;;
    --*)
        [ $# -ge 2 ] || die "$1 needs a value"
        options+=("$1" "$2")
        shift 2 ;;
    *) config+=("$1"); shift ;;
    esac
done
[ ${#config[@]} -gt 0 ] || { usage >&2; exit 2; }
dry=yes load_site # for the modules; sweep.sh does the rest
table=$(mktemp)
trap 'rm -f "$table"' EXIT
alone "${GR_BUILD:-$GRAFT_HOME/build}/bin/graft-sweep" "${config[@]}" >"$table"
"$GRAFT_HOME/slurm/sweep.sh" "$table" "${options[@]}"
