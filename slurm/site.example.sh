# Copy to slurm/site.sh and adapt. Sourced by every job script.
# module load openmpi hdf5/parallel openblas
# export MAX_RESTARTS=20
