"""What a submitted job asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flatmeter.config.duration import parse_duration
from flatmeter.errors import UsageError

MOST_TASKS = 16
"""Tasks of a job unless somebody says otherwise."""

DEFAULT_SECONDS = 4 * 3600.0
"""Time limit of a task of Slurm unless somebody says otherwise."""

EARLIER = 120.0
"""Seconds before the time limit at which a task stops by itself, of which half is left at the
signal; less of a short limit."""


@dataclass(frozen=True)
class Resources:
    """What the tasks of a job are given; what is ``None`` is for the cluster to decide.

    Args:
        cluster: ``slurm`` or ``local``.
        tasks: how many.
        seconds: time limit of each.
        gpus, cpus: of each.
        mem: memory of each, as sbatch writes it.
        partition: of Slurm.
        sbatch: other options of sbatch, each ``NAME=VALUE``, or ``NAME`` alone.

    Raises:
        UsageError: an option of Slurm without Slurm.
    """

    cluster: str
    tasks: int | None = None
    seconds: float | None = None
    gpus: int | None = None
    cpus: int | None = None
    mem: str | None = None
    partition: str | None = None
    sbatch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        others = {"--mem": self.mem, "--partition": self.partition, "--sbatch": self.sbatch}
        if self.cluster == "local" and any(others.values()):
            flag = next(name for name, value in others.items() if value)
            raise UsageError("this is for Slurm only", where=flag, hint="leave out --cluster local")

    @property
    def others(self) -> dict[str, str | bool]:
        """Other options of sbatch by name; ``True`` for one without a value."""
        pairs = (text.lstrip("-").partition("=") for text in self.sbatch)
        return {name: value if equals else True for name, equals, value in pairs}

    @property
    def minutes(self) -> int | None:
        """The time limit in whole minutes, which Slurm counts in."""
        return None if self.seconds is None else math.ceil(self.seconds / 60)

    @property
    def margin(self) -> float:
        """Seconds before the limit at which a task stops by itself."""
        return EARLIER if self.seconds is None else min(EARLIER, self.seconds / 4)

    @property
    def max_time(self) -> float | None:
        """Seconds after which a task stops by itself."""
        return None if self.seconds is None else self.seconds - self.margin


def seconds_of(time: str | None, cluster: str) -> float | None:
    """The time limit that ``--time`` means.

    Raises:
        UsageError: it is no duration.
    """
    if time is None:
        return DEFAULT_SECONDS if cluster == "slurm" else None
    try:
        return parse_duration(time)
    except ValueError as error:
        raise UsageError(str(error), where="--time") from error
