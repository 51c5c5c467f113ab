"""The directory of a zip file, with limits, before anything in it is unpacked."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from flatmeter.errors import CheckpointRefused

MAX_ENTRIES = 1_000_000
_END = b"PK\x05\x06"
_END_64 = b"PK\x06\x06"
_LONGEST_END = 22 + 65535 + 20 + 56


class BrokenZip(Exception):
    """The directory at the end of the file is missing or contradicts the file."""


def member_names(path: Path) -> tuple[str, ...]:
    """Names of the members.

    Raises:
        BrokenZip: the file is cut short or damaged.
    """
    return tuple(info.filename for info in _members(path))


def check_members(path: Path) -> None:
    """Refuse members that would unpack to more than the file holds, and names given twice.

    Raises:
        CheckpointRefused: such a member is there.
    """
    members, size = _members(path), path.stat().st_size
    # torch.save does not compress, so that honest members fit into the file together.
    claimed = sum(info.file_size for info in members)
    if claimed > size:
        largest = max(members, key=lambda info: info.file_size)
        raise CheckpointRefused(
            f"its members claim {claimed:,} bytes ({largest.filename!r} alone "
            f"{largest.file_size:,}) in a file of {size:,}",
            where=str(path),
            hint="torch.save does not compress; re-save the file if it was packed anew",
        )
    seen: set[str] = set()
    for info in members:
        if info.filename in seen:
            raise CheckpointRefused(f"it holds {info.filename!r} twice", where=str(path))
        seen.add(info.filename)


def read_member(path: Path, ending: str, limit: int) -> bytes:
    """The first bytes of the member whose name ends so; nothing where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(ending))
            with archive.open(name) as member:
                return member.read(limit)
    except (OSError, StopIteration, ValueError, NotImplementedError, zipfile.BadZipFile):
        return b""


def _members(path: Path) -> list[zipfile.ZipInfo]:
    _check_count(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (OSError, ValueError, NotImplementedError, struct.error, zipfile.BadZipFile) as error:
        raise BrokenZip(str(error)) from error


def _check_count(path: Path) -> None:
    """The number of entries, read from the end of the file before the directory is."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_END))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + 22:
        raise BrokenZip("it has no directory")
    count = struct.unpack_from("<H", tail, end + 10)[0]
    end_64 = tail.rfind(_END_64, 0, end)
    if end_64 >= 0 and end >= end_64 + 56:
        count = max(count, struct.unpack_from("<Q", tail, end_64 + 32)[0])
    if count > MAX_ENTRIES:
        raise BrokenZip(f"it claims {count:,} entries")
