"""Progress on stderr: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from flatmeter.cli.streams import say
from flatmeter.cli.units import frequency, span
from flatmeter.errors import printable

if TYPE_CHECKING:
    from rich.status import Status

    from flatmeter.results.record import Row

INTERVAL = 30.0


class Rate:
    """How fast measurements are taken; those found in the results folder do not count.

    Args:
        now: seconds at which the run began.
    """

    def __init__(self, now: float) -> None:
        self._began, self._taken = now, 0

    def add(self, now: float, *, reused: bool) -> None:
        """One more, at a time in seconds."""
        self._taken += not reused
        if not self._taken:
            self._began = now

    def words(self, now: float, left: int) -> str:
        """The rate, and the time that what is left takes at it; empty before the first one.

        Args:
            now: in seconds.
            left: number of measurements to come.
        """
        elapsed = now - self._began
        if not self._taken or elapsed <= 0:
            return ""
        rate = self._taken / elapsed
        return f", {frequency(rate)}, {span(left / rate)} left"


class Progress:
    """Tells what is being done.

    Args:
        mode: ``auto``, ``plain`` or ``none``.
        total: number of measurements to come; 0 where nobody knows.
    """

    def __init__(self, mode: str, total: int) -> None:
        self.total, self.done = total, 0
        self._rate = Rate(time.monotonic())
        self._mode = mode
        self._last = time.monotonic()
        self._status: Status | None = None
        if mode == "auto" and sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console

            console = Console(stderr=True, highlight=False, emoji=False)
            self._status = console.status("")
            self._status.start()

    def __call__(self, text: str) -> None:
        """What is being done now."""
        line = f"[{self._place()}] {text}"
        if self._status is not None:
            from rich.text import Text

            # Beside the spinner; a line that wraps would be redrawn in the wrong place.
            self._status.update(Text(line[: self._status.console.width - 4]))
        elif self._mode != "none" and time.monotonic() - self._last >= INTERVAL:
            self._last = time.monotonic()
            say(line)

    def _place(self) -> str:
        if not self.total:
            return str(self.done + 1)
        rate = self._rate.words(time.monotonic(), self.total - self.done)
        return f"{min(self.done + 1, self.total)}/{self.total}{rate}"

    def finished(self, *, reused: bool = False) -> None:
        """One more measurement is done."""
        self.done += 1
        self._rate.add(time.monotonic(), reused=reused)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._status is not None:
            self._status.console.print(printable(text), markup=False, soft_wrap=True)
        else:
            say(text)

    def close(self) -> None:
        """Clear the live line."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def spent(row: Row, reused: bool) -> str:
    """What became of a measure, and what it cost."""
    if reused:
        return f"{row.checkpoint}: {row.measure}: from the results folder"
    cost = row.gradient_equivalents
    count = "" if cost is None else f"{cost:.0f}"
    work = f", {count} gradient{'' if count == '1' else 's'}" if count else ""
    return f"{row.checkpoint}: {row.measure}: {row.status}, {row.seconds:.1f} s{work}"
