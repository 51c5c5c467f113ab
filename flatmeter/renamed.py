"""A file that is written beside its place and takes it once it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def renamed_onto(path: Path, mark: str | None = None) -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` at the end of the block.

    Args:
        path: of the file.
        mark: tells writers apart; the process's number where it is left out.

    Raises:
        OSError: it cannot be written or renamed; nothing is left of it.
    """
    temporary = path.with_name(f".{path.name}.{mark or os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sweep_up(folder: Path, mark: str) -> None:
    """Remove what writers of a mark have left behind that were killed; none may be at work."""
    for left in folder.glob(f".*.{mark}.tmp"):
        with suppress(OSError):
            left.unlink(missing_ok=True)
