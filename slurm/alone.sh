# shellcheck shell=bash
# Sourced by job.sh and submit.sh.

# A command as if outside of a job: MPI would take the variables of one for an invitation.
alone() # COMMAND...
{
    (
        for v in $(compgen -e); do
            case $v in SLURM_* | PMIX_* | PMI_*) unset "$v" ;; esac
        done
        exec "$@"
    )
}
