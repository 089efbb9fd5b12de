# shellcheck shell=bash
# What pipeline.sh and the sweeps share: where the clone is, the command line, the site, and what sbatch says. Sourced.

GRAFT_HOME=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export GRAFT_HOME
# shellcheck source=slurm/alone.sh
. "$GRAFT_HOME/slurm/alone.sh"
exec 3>&1 # what is captured below is a job's id; this is the terminal

die() { echo "${0##*/}: $*" >&2; exit 2; }

# The one argument goes to the variable that `argument` names, the value of --OPTION, one of `options`, to $OPTION.
read_command_line() # ARGUMENTS...
{
    local -n value=${argument:?}
    dry=""
    while [ $# -gt 0 ]; do
        case $1 in
        --dry-run) dry=yes; shift ;;
        -h | --help) usage; exit 0 ;;
        --*)
            [[ " ${options:?} " == *" ${1#--} "* ]] || die "unknown option $1"
            [ $# -ge 2 ] || die "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift 2 ;;
        -*) die "unknown option $1" ;;
        *)
            [ -z "$value" ] || die "one $argument at a time: $value, $1"
            value=$1
            shift ;;
        esac
    done
    [ -n "$value" ] || { usage >&2; exit 2; }
}

# Account, partition and the like; more options for sbatch in GRAFT_SBATCH.
load_site()
{
    local site=${GRAFT_SITE:-$GRAFT_HOME/slurm/site.sh}
    # shellcheck disable=SC2034 # whoever submits uses it
    GRAFT_SBATCH=()
    # shellcheck source=/dev/null
    [ ! -f "$site" ] || . "$site"
    [ -n "$dry" ] || mkdir -p logs # Slurm fails a job without a word when the directory of its log is missing
}

# Prints the job's id; when dry, NAME in its place and the line on the terminal.
submit() # NAME SBATCH-ARGUMENTS...
{
    local line=(sbatch --parsable "${@:2}")
    if [ -n "$dry" ]; then
        { printf %s "${GRAFT_CONFIG:+GRAFT_CONFIG=${GRAFT_CONFIG@Q} }sbatch"; printf ' %q' "${line[@]:1}"; echo; } >&3
        echo "JOB-OF-$1"
    else
        "${line[@]}" | cut -d';' -f1 # federations add ;cluster
    fi
}

# One stage of $model, with its configuration in $configs, as a job of its own after the success of another. A name up to _ is the
# program: tokenize_lessons.
submit_stage() # STAGE AFTER, a job or empty
{
    local after=()
    [ -z "$2" ] || after=(--dependency="afterok:$2")
    GRAFT_CONFIG=${configs:?}/$1.yaml submit "$1" --kill-on-invalid-dep=yes --job-name="$1_${model:?}" "${after[@]}" \
        "${GRAFT_SBATCH[@]}" "$GRAFT_HOME/slurm/${1%%_*}_$model.sh"
}

# Is there what submit_stage needs?
require_stage() # STAGE
{
    [ -f "$configs/$1.yaml" ] || die "no $configs/$1.yaml"
    [ -f "$GRAFT_HOME/slurm/${1%%_*}_$model.sh" ] || die "no slurm/${1%%_*}_$model.sh: unknown model $model"
}
