"""What one task of a submitted job does, in the process that submitit starts for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatmeter.errors import ExitCode


@dataclass(frozen=True)
class Task:
    """Measures one part of a list, and is to be called again where it was stopped.

    Args:
        arguments: of ``flatmeter``.
        listed: file with the checkpoints of all parts, one per line.
        max_time: seconds after which it stops by itself; ``None`` for never.
    """

    arguments: tuple[str, ...]
    listed: Path
    max_time: float | None

    def __call__(self) -> None:
        """Measure; requeue where that was stopped, else end as it ended."""
        from submitit import JobEnvironment

        from flatmeter.cli.main import run

        # For run.json: the line itself, not that of submitit.
        sys.argv = ["flatmeter", *self.arguments]
        began = time.monotonic()
        with self.listed.open(encoding="utf-8") as sys.stdin:
            code = run(self.arguments)
        if code == ExitCode.STOPPED and not self._cancelled(time.monotonic() - began):
            # submitit's own handler, which measure has put back: it requeues and ends the process.
            signal.raise_signal(getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))
        if code:
            sys.exit(code)

    def checkpoint(self) -> Any:
        """What is left to do, as submitit keeps it: the same, since results know what is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _cancelled(self, seconds: float) -> bool:
        """Whether somebody ended it, who does not want it to come back."""
        from submitit import JobEnvironment

        environment = JobEnvironment()
        if environment.name() == "slurm":
            command = ["squeue", "--noheader", "--format=%T", "--jobs", environment.job_id]
            shown = subprocess.run(command, capture_output=True, text=True)
            return shown.stdout.strip() in ("CANCELLED", "COMPLETING")
        return self.max_time is None or seconds < self.max_time
