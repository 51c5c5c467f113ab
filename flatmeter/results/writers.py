"""A file of its own for every process that writes into a folder of results."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import IO

from flatmeter.results.atomic import OutputError

_WRITERS = 100_000


def claim(folder: Path) -> tuple[IO[bytes], str]:
    """A file of results that nobody else writes to, opened, and the suffix of its name.

    A file belongs to the machine that made it, whose name stands beside it. Its processes take it
    in turn, by a lock that ends with the process. Locks are not relied on between machines: many
    network file systems have none, or some that hold on one machine only. What every one has is
    that a file can be made only once.

    Raises:
        OutputError: there are far too many files.
        OSError: the folder cannot be written to.
    """
    for number in range(_WRITERS):
        suffix = f"-{number}" if number else ""
        path = folder / f"results{suffix}.jsonl"
        owner = folder / "state" / f"results{suffix}.owner"
        if not path.exists():
            with suppress(FileExistsError):
                return _made(path, owner), suffix
        if _owner(owner) == this_machine():
            file = path.open("ab", buffering=0)
            with suppress(OSError):
                if _lock(file):
                    return file, suffix
            file.close()
    raise OutputError(f"the folder holds {_WRITERS} files of results", where=str(folder))


def _made(path: Path, owner: Path) -> IO[bytes]:
    """A new file. Its owner is told last: until then nobody else takes it, with or without locks.

    Raises:
        FileExistsError: somebody else has made it just now.
    """
    path.touch(exist_ok=False)
    file = path.open("ab", buffering=0)
    with suppress(OSError):
        _lock(file)
    owner.write_text(this_machine())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return file


def this_machine() -> str:
    """The kernel that runs now, on which a lock is seen by all; the host's name elsewhere."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


def _owner(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _lock(file: IO[bytes]) -> bool:
    """Whether the file is now ours alone."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
