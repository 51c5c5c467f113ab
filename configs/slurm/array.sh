#!/bin/bash
# Many checkpoints, one GPU each: every task of the array measures its part of the list, and all
# write into one folder. Arguments are those of `flatmeter measure`:
#
#   sbatch --array=0-7 configs/slurm/array.sh checkpoints/ -o results
#
# A task that is stopped before the time limit, or preempted, requeues itself and goes on.
#
#SBATCH --job-name=flatmeter
#SBATCH --array=0-7
#SBATCH --time=04:00:00
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120

# srun does not take it from sbatch by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

srun --ntasks=1 flatmeter measure --progress plain "$@" --shard auto
code=$?

# 75 says: stopped with everything finished saved; 138 and 143, that SIGUSR1 or SIGTERM came before
# flatmeter could answer. The next run goes on from there.
case "$code" in
    75 | 138 | 143) scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" ;;
esac
exit "$code"
