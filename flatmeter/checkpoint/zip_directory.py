"""The directory of a zip file, with limits, before anything in it is unpacked."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path
from typing import IO

from flatmeter.errors import CheckpointRefused

MAX_ENTRIES = 100_000
_END = b"PK\x05\x06"
_END_64 = b"PK\x06\x06"
_LOCATOR = b"PK\x06\x07"
_LONGEST_END = 22 + 65535 + 20 + 56


#: What Python's reader makes of a damaged, encrypted or oddly compressed member.
UNREADABLE = (
    OSError, ValueError, KeyError, RuntimeError, EOFError,
    zlib.error, LZMAError, zipfile.BadZipFile,
)  # fmt: skip


class BrokenZip(Exception):
    """The directory at the end of the file is missing or contradicts the file."""


def opened(source: Path | bytes) -> IO[bytes]:
    """A file, or what was read of one, as a stream."""
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def member_names(path: Path) -> tuple[str, ...]:
    """Names of the members.

    Raises:
        BrokenZip: the file is cut short or damaged.
    """
    return tuple(info.filename for info in _members(path))


def check_members(source: Path | bytes, path: Path) -> None:
    """Refuse members that would unpack to more than the file holds, and names given twice.

    Args:
        source: the file, or the part of it that is a zip.
        path: of the file, for messages.

    Raises:
        CheckpointRefused: such a member is there.
    """
    members, size = _members(source), _size(source)
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
        if info.filename.startswith("/") or ".." in re.split(r"[/\\]", info.filename):
            raise CheckpointRefused(
                f"a member's name leads out of the file: {info.filename[:80]!r}", where=str(path)
            )
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
    except (StopIteration, *UNREADABLE):
        return b""


def _size(source: Path | bytes) -> int:
    return source.stat().st_size if isinstance(source, Path) else len(source)


def _members(source: Path | bytes) -> list[zipfile.ZipInfo]:
    place = _directory(source)
    try:
        with opened(source) as file, zipfile.ZipFile(file) as archive:
            if archive.start_dir != place:
                raise BrokenZip("its directory is not where its end says")
            return archive.infolist()
    except (OSError, ValueError, NotImplementedError, struct.error, zipfile.BadZipFile) as error:
        raise BrokenZip(str(error)) from error


def _directory(source: Path | bytes) -> int:
    """Where the end of the file says that its directory begins.

    Python looks for the directory right before the end, torch where the end says: a file in which
    these are two could show one of them what the other does not read.
    """
    size = _size(source)
    with opened(source) as file:
        file.seek(max(0, size - _LONGEST_END))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + 22:
        raise BrokenZip("its end is missing")
    count, _, place = struct.unpack_from("<HLL", tail, end + 10)
    if tail[max(0, end - 20) : end].startswith(_LOCATOR):
        end_64 = end - 76
        said = struct.unpack_from("<Q", tail, end - 12)[0]
        if tail[max(0, end_64) : end].find(_END_64) != 0 or said != size - len(tail) + end_64:
            raise BrokenZip("its directory is not where its end says")
        count, _, place = struct.unpack_from("<QQQ", tail, end_64 + 32)
    if count > MAX_ENTRIES:
        raise BrokenZip(
            f"it claims {count:,} members, and {MAX_ENTRIES:,} are the most that are read"
        )
    return int(place)
