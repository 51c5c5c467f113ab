"""A file that is written beside its place and takes it once it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def renamed_onto(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` at the end of the block.

    Raises:
        OSError: it cannot be written or renamed; nothing is left of it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
