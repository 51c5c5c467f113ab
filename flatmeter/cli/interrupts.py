"""Signals that end a run: the measure in flight is abandoned, what was finished is shown."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from flatmeter.errors import FlatmeterError, Stopped, StoppedByHand
from flatmeter.watch import Watch

_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGALRM")


class Interrupts:
    """While it is entered, SIGTERM and SIGUSR1 stop the run and Ctrl-C ends it.

    SIGTERM runs no ``finally`` by itself, and a measure may take minutes to its next report: the
    handler raises at once, except within :meth:`held`.

    Attributes:
        deaf: whether signals count no more. Launchers of several processes send them again while
            these end already.

    Args:
        watch: told why, so that a report raises again where a measure swallowed the exception.
        seconds: time limit from :meth:`__enter__`, ``None`` for none.
    """

    def __init__(self, watch: Watch, seconds: float | None = None) -> None:
        self.watch, self.seconds = watch, seconds
        self.deaf: Callable[[], bool] = lambda: False
        self._holding = 0
        self._pending: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for name in _NAMES:
            number = getattr(signal, name)
            self._before[number] = signal.signal(number, self._received)
        if self.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, Exception) and not isinstance(error, FlatmeterError):
            # What fails after a signal was broken off by it.
            self.watch.check()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing interrupts the block; what arrives meanwhile acts at its end."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
        if self._pending is not None and not self._holding:
            number, self._pending = self._pending, None
            self._act(number)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self._holding:
            self._pending = number
        else:
            self._act(number)

    def _act(self, number: int) -> None:
        if self.deaf():
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        limit = number == signal.SIGALRM
        self.watch.stop("the time limit" if limit else signal.Signals(number).name)
        self.watch.check()


def ending(
    cause: Stopped | KeyboardInterrupt,
    folder: str | None,
    *,
    shown: bool = True,
    anew: bool = False,
) -> Stopped:
    """The end of a run in words: why it ended, what is kept, how to go on.

    Args:
        cause: a signal, the time limit or Ctrl-C.
        folder: of the results, where there is one.
        shown: this process shows them at the end.
        anew: the command measures what was finished once more.
    """
    if isinstance(cause, KeyboardInterrupt):
        cause = StoppedByHand("stopped by Ctrl-C")
    kind, why = type(cause), cause.message
    if folder is None:
        return kind(
            f"{why}; what was finished is {'shown, but not kept' if shown else 'lost'}",
            hint="with -o DIR, flatmeter measure keeps each measure and goes on where it stopped",
        )
    again = "run the same command again to go on where it stopped"
    if anew:
        again = "the same command begins anew; without --force it keeps everything that is there"
    return kind(f"{why}; what was finished is kept in {folder}", hint=again)
