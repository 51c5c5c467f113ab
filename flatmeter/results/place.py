"""Whether results can be written to a place, tried before time is spent on them."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flatmeter.errors import UsageError
from flatmeter.results.atomic import OutputError, told, written_through

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def beforehand() -> Iterator[None]:
    """Turns an :class:`OutputError` inside the block into a :class:`UsageError`.

    Before anything is measured, a place that cannot be written to is a mistake of the command. A
    full disk is not: the same command is right once there is room.
    """
    try:
        yield
    except OutputError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            raise
        raise UsageError(error.message, where=error.where, hint=error.hint) from error


def check_folder(folder: Path) -> None:
    """Make a folder, with those above it, and try to write into it.

    Raises:
        UsageError: it cannot be written to.
        OutputError: the disk is full.
    """
    with beforehand(), told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _try(folder)


def check_file(path: Path) -> None:
    """Try to write where a file is to stand; what stands there is left as it is.

    Raises:
        UsageError: its folder does not exist or cannot be written to, or it is a folder itself.
        OutputError: the disk is full.
    """
    with beforehand(), told(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and written_through(path):
            # Opening a pipe would wait for its reader.
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        else:
            _try(path.resolve().parent)


def _try(folder: Path) -> None:
    """Only an attempt tells: permissions say nothing of a read-only disk or of ``/proc``."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b" ")
