"""Whether this process was started as one of several, by torchrun, srun or an array of jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flatmeter.errors import UsageError

FIRST_PORT, PORTS = 20000, 10000
"""Ports that a step of a Slurm job may use: below those that systems hand out by themselves."""


@dataclass(frozen=True)
class Place:
    """A process among those that were started together.

    Args:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number among those on this machine.
        neighbours: how many there are on this machine, itself included.
        host, port: where the first process is met.
    """

    rank: int
    size: int
    local_rank: int
    neighbours: int
    host: str
    port: int


def launched(environment: Mapping[str, str]) -> Place | None:
    """The place that the launcher gave this process; ``None`` where it is the only one.

    Args:
        environment: its variables. torchrun's come before Slurm's, which started torchrun.

    Raises:
        UsageError: a variable of the launcher makes no sense.
    """
    if all(name in environment for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return _by_torchrun(environment)
    # Only srun sets these two together: a batch script and a shell of salloc know how many tasks
    # the job may have, and yet are one process.
    if all(name in environment for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        return _by_srun(environment)
    return None


def _by_torchrun(environment: Mapping[str, str]) -> Place | None:
    size = _number(environment, "WORLD_SIZE")
    if size < 2:
        return None
    rank = _number(environment, "RANK")
    return Place(
        rank=rank,
        size=size,
        local_rank=_number(environment, "LOCAL_RANK", rank),
        neighbours=_number(environment, "LOCAL_WORLD_SIZE", size),
        host=environment["MASTER_ADDR"],
        port=_number(environment, "MASTER_PORT"),
    )


def _by_srun(environment: Mapping[str, str]) -> Place | None:
    size = _number(environment, "SLURM_STEP_NUM_TASKS")
    if size < 2:
        return None
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    per_node = re.findall(r"(?<!x)\b\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    # Steps of one job may run side by side.
    step = _number(environment, "SLURM_STEP_ID", 0)
    port = FIRST_PORT + (7 * _number(environment, "SLURM_JOB_ID", 0) + step) % PORTS
    return Place(
        rank=_number(environment, "SLURM_PROCID"),
        size=size,
        local_rank=_number(environment, "SLURM_LOCALID", 0),
        neighbours=max(map(int, per_node), default=size),
        host=environment.get("MASTER_ADDR") or first_host(nodes),
        port=_number(environment, "MASTER_PORT", port),
    )


def array_task(environment: Mapping[str, str]) -> tuple[int, int]:
    """Which task of an array job of Slurm this is, from 1, and how many there are.

    Args:
        environment: its variables.

    Raises:
        UsageError: it is none, or one of an array whose numbers have gaps: such as that of the few
            tasks of a larger array that are to be repeated.
    """
    if "SLURM_ARRAY_TASK_ID" not in environment:
        raise UsageError(
            "auto takes the part from an array job of Slurm, and this is none",
            where="--shard",
            hint="name the part, such as 3/100, or begin with: sbatch --array=0-99",
        )
    own = _number(environment, "SLURM_ARRAY_TASK_ID")
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    step = max(_number(environment, "SLURM_ARRAY_TASK_STEP", 1), 1)
    place, rest = divmod(own - first, step)
    if rest or not 0 <= place < count:
        raise UsageError(
            f"the {count} tasks of this array have gaps between their numbers, which task {own} "
            "cannot count",
            where="--shard",
            hint="write --array=0-99 without gaps, or name the part, such as "
            '--shard "$((SLURM_ARRAY_TASK_ID + 1))/100"',
        )
    return place + 1, count


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: ``gpu[03-05,9],cpu1`` gives ``gpu03``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert first is not None  # it matches an empty list too
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group()) or "localhost"


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError as error:
        raise UsageError(
            f"the variable {name} of the launcher is {text!r}, not a number",
            hint="unset it to measure with this process alone",
        ) from error
