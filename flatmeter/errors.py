"""Every failure that a person may meet: what happened, where, what to do next, and the exit code.

Nothing here imports torch; any room may raise these.
"""

from __future__ import annotations

import re
from enum import IntEnum

#: Control characters but for line feeds, and marks that turn the direction of writing.
_UNPRINTED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SENTENCE = 400

ISSUES = "the issue tracker of the project that you installed it from"
"""Where a bug is reported."""


def printable(text: str) -> str:
    """The text without what would move a terminal's cursor; lines stay lines."""
    return _UNPRINTED.sub("?", text)


class ExitCode(IntEnum):
    """Exit codes of the command line; a contract with shell scripts and batch jobs."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    MISMATCH = 4
    OUT_OF_MEMORY = 5
    UNCONVERGED = 6
    INTERNAL = 70
    STOPPED = 75
    CTRL_C = 130


class FlatmeterError(Exception):
    """A failure to be shown as sentences, never as a traceback.

    Args:
        message: what happened, one sentence without a final full stop needed.
        where: the file, option or tensor that it happened at.
        hint: what to do next.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n{self.hint}" if self.hint else text


class UsageError(FlatmeterError):
    """An option, a configuration value or a name that cannot be used."""

    exit_code = ExitCode.USAGE


class DataError(FlatmeterError):
    """Data that cannot be read, or that do not fit the network or the loss."""

    exit_code = ExitCode.USAGE


class _OfAFile(FlatmeterError):
    """A failure that may quote a file, which may hold what moves a terminal's cursor."""

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        said = message if len(message) <= _SENTENCE else f"{message[: _SENTENCE - 1]}…"
        quoted = None if hint is None else printable(hint)
        super().__init__(printable(said).replace("\n", "?"), where=where, hint=quoted)


class CheckpointRefused(_OfAFile):
    """A file that is unsafe, broken or of no recognised format."""

    exit_code = ExitCode.REFUSED


class ArchitectureMismatch(_OfAFile):
    """Weights that do not fit the network they were to be loaded into."""

    exit_code = ExitCode.MISMATCH


class OutOfMemory(FlatmeterError):
    """No retreat was left: even the smallest batch does not fit."""

    exit_code = ExitCode.OUT_OF_MEMORY


class NotApplicable(FlatmeterError):
    """A measure that has no meaning for this network; becomes a row ``n/a`` with the reason."""


class NotDifferentiable(FlatmeterError):
    """An operator of the network has no derivative of the order that is needed."""


class NotDeterministic(FlatmeterError):
    """The same network gave two answers on the same data."""


class NonFinite(FlatmeterError):
    """A loss, output or gradient that is infinite or not a number."""


class Stopped(FlatmeterError):
    """SIGTERM, SIGUSR1 or the time limit: what is left is to be requeued."""

    exit_code = ExitCode.STOPPED


class StoppedByHand(Stopped):
    """Ctrl-C: nobody is to requeue it."""

    exit_code = ExitCode.CTRL_C


class LostProcess(Stopped):
    """Of several processes that share a measurement, one does not answer any more."""

    exit_code = ExitCode.FAILED


class OutOfStep(Stopped):
    """Processes that share a measurement came to different places of the program."""

    exit_code = ExitCode.INTERNAL
