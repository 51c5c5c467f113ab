"""What a running measure reports to, and what stops it: a time limit or a signal."""

from __future__ import annotations

import time
from collections.abc import Callable

from flatmeter.errors import Stopped


class Watch:
    """Called in words by whatever runs; raises when the run must stop.

    Args:
        listener: told every word, for a progress line.
        seconds: time limit from now, ``None`` for none.
        noted: told what a reader should know of a checkpoint.
    """

    def __init__(
        self,
        listener: Callable[[str], None] | None = None,
        seconds: float | None = None,
        noted: Callable[[str], None] | None = None,
    ) -> None:
        self.listener, self.noted = listener, noted
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self.reason: str | None = None

    def __call__(self, text: str) -> None:
        """Report ``text``.

        Raises:
            Stopped: the time is up, or :meth:`stop` was called.
        """
        self.check()
        if self.listener is not None:
            self.listener(text)

    def note(self, text: str) -> None:
        """Pass on what a reader should know."""
        if self.noted is not None:
            self.noted(text)

    def check(self) -> None:
        """Raise where the run must stop.

        Raises:
            Stopped: the time is up, or :meth:`stop` was called.
        """
        if self.reason is not None:
            raise Stopped(f"stopped by {self.reason}")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise Stopped(
                "stopped by the time limit",
                hint="give max_time more seconds, or measure fewer things at once",
            )

    def stop(self, reason: str) -> None:
        """Let the next report raise."""
        self.reason = reason

    def within(self, prefix: str) -> Callable[[str], None]:
        """The same watch, with words in front of every report."""
        return lambda text: self(f"{prefix}: {text}")
