# shellcheck shell=bash
# Copy to slurm/site.sh, which is not tracked, and adapt. Sourced by jobs, and by pipeline.sh and sweep.sh when they submit; source
# it in your shell before an sbatch by hand. Only what differs from site to site belongs here; what a stage needs of nodes and
# time stands in slurm/STAGE_MODEL.sh, and sbatch takes it from the command line, too.

# What the programs were built with.
# module purge
# module load gcc openmpi hdf5/parallel openblas

# For sbatch, which reads these variables: who pays, and where. They win over #SBATCH lines.
# export SBATCH_ACCOUNT=abc123
# export SBATCH_PARTITION=compute
# export SBATCH_QOS=normal
# export SBATCH_GPUS_PER_NODE=8         # where nodes have them; version 0.1 computes on the CPU

# Nodes: one rank per socket (the default), or per group of cores that share a cache and memory. Each rank holds a whole model.
# export GRAFT_RANKS_PER_NODE=2

# How ranks are started. srun --mpi=list says which plug-ins there are; Open MPI wants pmix.
# export GRAFT_SRUN="srun --mpi=pmix"

# More options for sbatch from pipeline.sh and sweep.sh, as an array.
# GRAFT_SBATCH=(--constraint=genoa --mail-type=FAIL)

# Work: where runs/ lies. A link is enough: ln -s "$GRAFT_SCRATCH/runs" runs
# export GRAFT_SCRATCH=...

# export MAX_RESTARTS=20
