"""What ``flatmeter submit`` does: check, write the list down, let submitit start the tasks."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flatmeter.cli.clusters import check_cluster, slurm_script, start_here, start_slurm
from flatmeter.cli.inputs import expand
from flatmeter.cli.output import Output
from flatmeter.cli.plan_of import plan_of
from flatmeter.cli.resources import MOST_TASKS, Resources
from flatmeter.cli.streams import say, write_out
from flatmeter.cli.submission import Submission
from flatmeter.config.layers import Configuration
from flatmeter.errors import FlatmeterError, UsageError
from flatmeter.results.atomic import told, write_whole
from flatmeter.results.number import counted
from flatmeter.results.place import check_folder


def submit(
    configuration: Configuration,
    checkpoints: Sequence[str],
    typed: Sequence[str],
    resources: Resources,
    logs: Path | None,
    *,
    dry_run: bool,
) -> None:
    """Submit a job, and print its number and where its files are.

    Args:
        configuration: of the tasks.
        checkpoints: files, folders and patterns.
        typed: the flags of settings as they were typed, which are those of the tasks.
        resources: what the tasks are given.
        logs: folder of the job's files; in that of the results where it is ``None``.
        dry_run: show the job only.

    Raises:
        UsageError: a setting or checkpoint that the tasks would refuse, no submitit, no Slurm.
        NotSubmitted: the cluster does not take the job.
    """
    out = _check(configuration)
    paths = _existing(checkpoints)
    check_cluster(resources.cluster)
    resources = _settled(resources, configuration.settings.device, len(paths))
    submission = Submission.of(configuration.settings, typed, resources, _own(logs or out / "jobs"))
    if dry_run:
        write_out(_plan(submission, resources, len(paths)))
        return
    with told(submission.folder):
        submission.folder.mkdir(parents=True)
    write_whole(submission.listed, "".join(f"{path}\n" for path in paths).encode())
    start = start_slurm if resources.cluster == "slurm" else start_here
    try:
        number = start(submission, resources)
    except FlatmeterError:
        shutil.rmtree(submission.folder, ignore_errors=True)
        raise
    write_out(_said(submission, resources, number, len(paths)))


def _check(configuration: Configuration) -> Path:
    """Refuse what every task would refuse, and what tasks cannot do side by side; the folder."""
    settings = configuration.settings
    if settings.out is None:
        raise UsageError("a job needs a folder for its results", hint="add -o DIR")
    for name, instead in (
        ("shard", "parts are dealt out by --tasks"),
        ("export", f"afterwards: flatmeter merge {settings.out} --export FILE"),
    ):
        if getattr(settings, name):
            where = configuration.origins.get(name)
            raise UsageError(f"{name} cannot be set for a job", where=where, hint=instead)
    # The GPUs of this machine are not those of the tasks.
    here = settings.model_copy(update={"device": "cpu", "deterministic": False})
    plan = plan_of(here, configuration.origins, lambda text: say(f"note: {text}"))
    quantities = [(measure.name, name) for measure in plan.measures for name in measure.quantities]
    Output(settings, notes=False).check(quantities)
    check_folder(Path(settings.out))
    return Path(settings.out)


def _existing(checkpoints: Sequence[str]) -> list[Path]:
    paths = expand(checkpoints)
    for path in paths:
        if not path.exists():
            raise UsageError("there is no such file", where=str(path))
        if "\n" in str(path):
            raise UsageError("a name of two lines cannot be listed", where=repr(str(path)))
    return paths


def _settled(resources: Resources, device: str, checkpoints: int) -> Resources:
    """How many tasks and GPUs there are where nobody has said so."""
    here = 0
    if resources.cluster == "local":
        import torch

        here = torch.cuda.device_count()
    most = MOST_TASKS if resources.cluster == "slurm" else max(here, 1)
    wanted = 0 if device == "cpu" or (resources.cluster == "local" and not here) else 1
    return replace(
        resources,
        tasks=min(resources.tasks or most, checkpoints),
        gpus=wanted if resources.gpus is None else resources.gpus,
    )


def _own(folder: Path) -> Path:
    """A folder inside that does not exist yet, named by the time."""
    name = time.strftime("%Y%m%d-%H%M%S")
    numbered = (folder / (f"{name}-{number}" if number else name) for number in range(1000))
    return next(path for path in numbered if not path.exists())


def _plan(submission: Submission, resources: Resources, checkpoints: int) -> str:
    """The job that would be submitted."""
    text = f"{_tasks(resources, checkpoints)}\neach task: {submission.line()}\n"
    if resources.cluster == "local":
        return text
    return f"{text}\n{slurm_script(submission, resources).rstrip()}\n"


def _said(submission: Submission, resources: Resources, number: str, checkpoints: int) -> str:
    """What people want to know of a job that was submitted."""
    array = len(submission.tasks) > 1
    logs = f"{number}_*_0_log.out" if resources.cluster == "slurm" and array else "*_0_log.out"
    kind = f"job {number} of Slurm" if resources.cluster == "slurm" else f"processes {number}"
    state = f"squeue --jobs {number}" if resources.cluster == "slurm" else f"ps {number}"
    lines = {
        "submitted": f"{kind}: {_tasks(resources, checkpoints)}",
        "each task": submission.line(),
        "logs": str(submission.folder / logs),
        "state": state,
        "results": f"flatmeter merge {shlex.quote(submission.out)}",
    }
    return "".join(f"{name + ':':<11}{text}\n" for name, text in lines.items())


def _tasks(resources: Resources, checkpoints: int) -> str:
    count = resources.tasks or 1
    least, more = divmod(checkpoints, count)
    each = f"{least}" if not more else f"{least} or {least + 1}"
    return f"{counted(count, 'task')} for {counted(checkpoints, 'checkpoint')}, {each} each"
