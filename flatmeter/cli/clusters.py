"""Where submitit starts the tasks of a job: in Slurm, or on this machine."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from flatmeter.cli.resources import Resources
from flatmeter.cli.submission import Submission
from flatmeter.errors import FlatmeterError, UsageError

OFTEN = 1000
"""submitit ends a job that ran out of time more often than this."""

EARLY = (
    "code=$?",
    'case "$code" in 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;; esac',
    'exit "$code"',
)
"""A signal that comes before Python can take it ends the task: SIGUSR1 or SIGTERM."""

YEARS = 10 * 365 * 24 * 60.0
"""Minutes that stand for no limit."""


class NotSubmitted(FlatmeterError):
    """The cluster does not take the job."""


def check_cluster(cluster: str) -> None:
    """Whether jobs can be submitted from here.

    Raises:
        UsageError: submitit is not installed, or there is no Slurm.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UsageError(
            "jobs are submitted by submitit, which is not installed",
            hint="pip install 'flatmeter[submit]'",
        )
    lacking = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
    if cluster == "slurm" and lacking:
        raise UsageError(
            f"there is no {lacking[0]} here: this is no machine from which Slurm takes jobs",
            where="--cluster slurm",
            hint="log in where it is, or start the tasks on this machine by --cluster local",
        )


def slurm_executor(submission: Submission, resources: Resources) -> Any:
    """The executor of submitit."""
    from submitit import SlurmExecutor

    executor = SlurmExecutor(folder=submission.folder, max_num_timeout=OFTEN)
    # srun does not take the number of cores from sbatch by itself.
    cores = [] if resources.cpus is None else [f"--cpus-per-task={resources.cpus}"]
    memory = {} if resources.mem is None else {"mem": resources.mem}
    executor.update_parameters(
        job_name="flatmeter",
        time=resources.minutes,
        cpus_per_task=resources.cpus,
        gpus_per_node=resources.gpus or None,
        partition=resources.partition,
        wckey=None,
        stderr_to_stdout=True,
        srun_args=["--ntasks=1", *cores],
        setup=["export SUBMITIT_PREEMPT_SIGNAL=USR1"],
        teardown=list(EARLY),
        additional_parameters={
            "requeue": True,
            "signal": f"USR1@{max(1, round(resources.margin / 2))}",
            **memory,
            **resources.others,
        },
    )
    return executor


def slurm_script(submission: Submission, resources: Resources) -> str:
    """What sbatch would be given."""
    executor = slurm_executor(submission, resources)
    if len(submission.tasks) > 1:
        executor.parameters["map_count"] = len(submission.tasks)
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text


def start_slurm(submission: Submission, resources: Resources) -> str:
    """Submit the tasks as a job, or an array of them; its number.

    Raises:
        NotSubmitted: Slurm does not take it.
    """
    executor = slurm_executor(submission, resources)
    try:
        # What sbatch says is told below.
        with redirect_stderr(io.StringIO()), executor.batch():
            jobs = [executor.submit(task) for task in submission.tasks]
    except (RuntimeError, OSError) as error:
        raise NotSubmitted(f"Slurm does not take the job: {_reason(error)}") from error
    return str(jobs[0].job_id).partition("_")[0]


def _reason(error: Exception) -> str:
    """What sbatch said, without the traceback around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line.partition("error: ")[2] for line in lines if line.startswith("sbatch: error:")]
    return "; ".join(own) or (lines[-1] if lines else type(error).__name__)


def start_here(submission: Submission, resources: Resources) -> str:
    """Start the tasks as processes of this machine, all at once; their numbers.

    Raises:
        UsageError: a task is to have more GPUs than there are.
    """
    import torch
    from submitit import LocalExecutor
    from submitit.helpers import environment_variables

    count, each = torch.cuda.device_count(), resources.gpus or 0
    if each > count:
        raise UsageError(f"this machine has {count} GPUs", where="--gpus")
    executor = LocalExecutor(folder=submission.folder, max_num_timeout=OFTEN)
    shared = {"SUBMITIT_PREEMPT_SIGNAL": "USR1", **_threads(resources, len(submission.tasks))}
    started = []
    for number, task in enumerate(submission.tasks):
        executor.update_parameters(
            timeout_min=YEARS if resources.seconds is None else resources.seconds / 60,
            signal_delay_s=round(resources.margin / 2),
            gpus_per_node=each,
            visible_gpus=[(number * each + k) % count for k in range(each)],
            stderr_to_stdout=True,
        )
        with environment_variables(**shared), _apart(submission.folder / "controllers.log"):
            started.append(executor.submit(task))
    return " ".join(str(one.job_id) for one in started)


def _threads(resources: Resources, tasks: int) -> dict[str, str]:
    """All tasks run at once, and share the cores unless somebody has said how many each takes."""
    if resources.cpus is None and "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(resources.cpus or max(1, (os.cpu_count() or 1) // tasks))}


@contextmanager
def _apart(log: Path) -> Iterator[None]:
    """What is started now keeps none of this command's streams open."""
    sys.stdout.flush()
    kept = [os.dup(number) for number in range(3)]
    nothing, said = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_CREAT | os.O_APPEND | 1)
    try:
        for number, target in enumerate((nothing, said, said)):
            os.dup2(target, number)
        yield
    finally:
        for number, old in enumerate(kept):
            os.dup2(old, number)
        for descriptor in (*kept, nothing, said):
            os.close(descriptor)
