#!/bin/bash
# Large networks or much data: all GPUs of the job share each measurement, on one node or several.
# Arguments are those of `flatmeter measure`:
#
#   sbatch configs/slurm/gpus.sh checkpoints/ -o results
#
# A job that is stopped before the time limit, or preempted, requeues itself and goes on.
#
#SBATCH --job-name=flatmeter
#SBATCH --time=04:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120

# srun does not take it from sbatch by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

srun flatmeter measure --progress plain "$@"
code=$?

# 75 says: stopped with everything finished saved; 138 and 143, that SIGUSR1 or SIGTERM came before
# flatmeter could answer. The next run goes on from there.
case "$code" in
    75 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$code"
