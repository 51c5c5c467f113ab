"""Doing the same with every checkpoint, one that fails not stopping the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flatmeter.cli.streams import complain
from flatmeter.errors import ExitCode, FlatmeterError, Stopped

if TYPE_CHECKING:
    from flatmeter.subject import Loader, Subject


def with_each(paths: Sequence[Path], work: Callable[[Path], None]) -> ExitCode:
    """Work on every checkpoint; what fails is told on stderr.

    Returns:
        Of a single checkpoint its own code, else ``FAILED`` where any failed.
    """
    code = ExitCode.OK
    for path in paths:
        try:
            work(path)
        except Stopped:
            raise
        except FlatmeterError as error:
            complain(f"{path}: {error}" if str(path) not in str(error) else str(error))
            code = error.exit_code if len(paths) == 1 else ExitCode.FAILED
    return code


def told(loader: Loader, path: Path) -> Subject:
    """The subject of a checkpoint; what reading it had to say is told where the loader tells."""
    subject = loader.load(path)
    for note in subject.notes:
        loader.tell(f"{path}: {note}")
    return subject
