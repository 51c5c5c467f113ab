"""Files that are either written whole or not at all, and disk errors told in a sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flatmeter.errors import FlatmeterError
from flatmeter.renamed import renamed_onto


class OutputError(FlatmeterError):
    """Results that cannot be written."""


_SENTENCES = {
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again"),
    errno.EFBIG: ("the file would be larger than allowed", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.ENOENT: ("there is no such folder", "make it first, or choose another"),
    errno.EACCES: ("permission denied", "choose a folder that you may write to"),
    errno.EPERM: ("permission denied", "choose a folder that you may write to"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another folder"),
    errno.EISDIR: ("it is a folder, a file is needed", "choose another name"),
    errno.EEXIST: ("it is a file, a folder is needed", "choose another name"),
}


def output_error(error: OSError, path: Path | str) -> OutputError:
    """What went wrong while writing ``path``, for people."""
    what, hint = _SENTENCES.get(error.errno or 0, (error.strerror or str(error), None))
    return OutputError(f"cannot write: {what}", where=str(path), hint=hint)


@contextmanager
def told(path: Path | str) -> Iterator[None]:
    """Turns an ``OSError`` inside the block into an :class:`OutputError` about ``path``."""
    try:
        yield
    except OSError as error:
        raise output_error(error, path) from error


def written_through(path: Path) -> bool:
    """Whether it is a link, a device or a pipe: a rename would put a file in its place."""
    return path.is_symlink() or (path.exists() and not path.is_file())


def write_whole(path: Path, content: bytes, mark: str | None = None) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one.

    Args:
        path: of the file.
        content: all of it.
        mark: of the writer, as for :func:`flatmeter.renamed.renamed_onto`.

    Raises:
        OutputError: the folder is read-only, the disk full, and so on.
    """
    if written_through(path):
        with told(path), path.open("wb") as stream:
            stream.write(content)
        return
    with told(path), renamed_onto(path, mark) as temporary:
        temporary.write_bytes(content)
