"""The tasks of a submitted job, and the folder of their files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flatmeter.cli.resources import Resources
from flatmeter.cli.task import Task
from flatmeter.config.schema import Settings


@dataclass(frozen=True)
class Submission:
    """Tasks that are submitted together.

    Args:
        folder: of their files.
        tasks: that measure the parts.
        out: folder of the results.
    """

    folder: Path
    tasks: tuple[Task, ...]
    out: str

    @classmethod
    def of(
        cls, settings: Settings, typed: Sequence[str], resources: Resources, folder: Path
    ) -> Submission:
        """The tasks of a job, each with its part."""
        words = list(typed)
        if settings.max_time is None and resources.max_time is not None:
            words.append(f"--max-time={resources.max_time:.0f}s")
        parts = (
            f"--shard={number}/{resources.tasks}" for number in range(1, (resources.tasks or 1) + 1)
        )
        tasks = [
            Task(
                ("measure", "-", *words, part),
                folder.absolute() / "checkpoints.txt",
                settings.max_time or resources.max_time,
            )
            for part in parts
        ]
        return cls(folder, tuple(tasks), settings.out or "")

    @property
    def listed(self) -> Path:
        """File with all checkpoints."""
        return self.folder / "checkpoints.txt"

    def line(self) -> str:
        """What each task runs, as one would type it."""
        *words, part = self.tasks[0].arguments
        count = part.partition("/")[2]
        command = shlex.join(["flatmeter", *words])
        return f"{command} --shard=K/{count} < {shlex.quote(str(self.listed))}"
