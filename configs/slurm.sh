#!/bin/bash
# One job per list of checkpoints; every job writes into the same folder:
#
#   sbatch --array=0-7 configs/slurm.sh checkpoints/*.pt
#
#SBATCH --job-name=flatmeter
#SBATCH --time=04:00:00
#SBATCH --gres=gpu:1
#SBATCH --requeue
#SBATCH --signal=USR1@120

# Every eighth checkpoint belongs to this task.
mine=()
for ((i = SLURM_ARRAY_TASK_ID; i <= $# - 1; i += 8)); do
    mine+=("${@:i+1:1}")
done

srun flatmeter measure "${mine[@]}" -c configs/slurm.yaml
code=$?

# 75 says: stopped with everything finished saved. The next run goes on from there.
if [ "$code" -eq 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
