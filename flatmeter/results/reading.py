"""The measurements that stand in the files of a results folder."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from flatmeter.results.atomic import OutputError, told
from flatmeter.results.record import NETWORK, Row

COMPLETE = "rows"
"""Beside the columns of a headline's line: how many rows its measurement has."""

_NUMBERS = ("value", "stderr", "residual", "ci_low", "ci_high", "loss", "rounding", "revision")

_COUNT = f'"{COMPLETE}":'.encode()


class _Line(NamedTuple):
    """A row, the rows of its measurement where it counts them, and where it stands in the file."""

    row: Row
    counted: int | None
    start: int
    stop: int


@dataclass(frozen=True)
class Stored:
    """One measurement as it stands in a file.

    Args:
        rows: headline first.
        file: that holds it.
        start, stop: its first byte there, and that behind its last.
    """

    rows: list[Row]
    file: Path
    start: int = 0
    stop: int = 0

    @property
    def head(self) -> Row:
        """The headline."""
        return self.rows[0]

    @property
    def identity(self) -> str:
        """What is the same for all measurements of the same number."""
        return identity(self.head)

    @property
    def checkpoint(self) -> str:
        """Its name."""
        return self.head.checkpoint

    @property
    def revision(self) -> int:
        """How often it was measured anew."""
        return self.head.revision

    @property
    def failed(self) -> bool:
        """Whether it holds an error instead of a value: it may work now."""
        return any(row.status == "error" for row in self.rows)

    def shelved(self) -> Shelved:
        """The same without its rows, which are read again when they are needed."""
        about = self.identity, self.checkpoint, self.revision, self.failed
        return Shelved(self.file, self.start, self.stop, *about)


@dataclass(frozen=True, slots=True)
class Shelved:
    """Where a measurement stands: a folder of many may hold more rows than memory does.

    Args:
        file: that holds it.
        start, stop: its first byte there, and that behind its last.
        identity: what is the same for all measurements of the same number.
        checkpoint: its name.
        revision: how often it was measured anew.
        failed: it holds an error instead of a value.
    """

    file: Path
    start: int
    stop: int
    identity: str
    checkpoint: str
    revision: int
    failed: bool

    def stored(self) -> Stored:
        """It with its rows.

        Raises:
            OutputError: the file has changed or cannot be read any more.
        """
        with told(self.file), self.file.open("rb") as file:
            file.seek(self.start)
            content = io.BytesIO(file.read(self.stop - self.start))
        lines = list(_lines(content, self.file))
        rows = [line.row for line in reversed(lines)]
        if not rows or identity(rows[0]) != self.identity:
            raise OutputError(
                "the file has changed meanwhile",
                where=str(self.file),
                hint="run the same command again",
            )
        return Stored(rows, self.file, self.start, self.stop)


M = TypeVar("M", Stored, Shelved)


@dataclass(frozen=True)
class Contents:
    """What the files of a folder hold.

    Args:
        measurements: whole ones, in the order of files and lines.
        unfinished: files in which a measurement was cut short, the rest of which is left out.
    """

    measurements: list[Stored]
    unfinished: list[Path]


def read_folder(folder: Path) -> Contents:
    """Every measurement of a results folder.

    Raises:
        OutputError: it cannot be read, or a line in it is not a row.
    """
    unfinished: list[Path] = []
    return Contents(list(each_measurement(folder, unfinished)), unfinished)


def each_measurement(folder: Path, unfinished: list[Path] | None = None) -> Iterator[Stored]:
    """Every whole measurement of a results folder, in the order of files and lines.

    Args:
        folder: of results.
        unfinished: gathers the files in which a measurement was cut short.

    Raises:
        OutputError: it cannot be read, or a line in it is not a row.
    """
    for path in sorted(folder.glob("results*.jsonl"), key=lambda p: (len(p.name), p.name)):
        with told(path), path.open("rb") as file:
            # A file by another hand than the store's has no counts at all.
            counted = any(_COUNT in line for line in file)
            torn = _is_torn(file)
            file.seek(0)
            for lines in _groups(_lines(file, path)):
                if _is_whole(lines, counted):
                    rows = [line.row for line in lines]
                    yield Stored(rows, path, lines[-1].start, lines[0].stop)
                else:
                    torn = True
        if torn and unfinished is not None:
            unfinished.append(path)


def _is_torn(file: IO[bytes]) -> bool:
    """The last line has no end."""
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def last_whole(content: bytes) -> int:
    """Where the last whole measurement of a file ends.

    That is behind the last line that counts the rows of its measurement. A file without counts is
    by another hand, and ends with its last line, unless the only measurement begun in it lacks
    its headline.
    """
    end = content.rfind(b"\n") + 1
    begin, network = end, False
    while begin:
        stop, begin = begin, content.rfind(b"\n", 0, begin - 1) + 1
        try:
            line = json.loads(content[begin:stop])
        except ValueError:
            return end
        if COMPLETE in line:
            return stop
        network |= line.get("scope") == NETWORK
    return end if network else 0


def identity(row: Row) -> str:
    """What is the same for all measurements of the same number: the key.

    A checkpoint that could not be read has none; its errors go by its name.
    """
    return row.key or f"{row.checkpoint}\n{row.measure}"


def standing(measurements: Iterable[M]) -> dict[str, list[M]]:
    """The measurements that nothing has replaced, by identity.

    A later revision (``--force``) replaces earlier ones, a later line of a file those before it,
    and a value the errors of the same revision. What is left more than once was measured by
    several writers at the same time.
    """
    groups: dict[str, list[M]] = {}
    for one in measurements:
        groups.setdefault(one.identity, []).append(one)
    return {name: _standing(group) for name, group in groups.items()}


def _standing(group: Sequence[M]) -> list[M]:
    newest = max(one.revision for one in group)
    by_file = {(one.file, one.checkpoint): one for one in group if one.revision == newest}
    left = list(by_file.values())
    return [one for one in left if not one.failed] or left[-1:]


def _is_whole(lines: Sequence[_Line], counted: bool) -> bool:
    """Whether it has its headline, which is written last, and all before it."""
    head = lines[0]
    return head.counted == len(lines) if counted else head.row.scope == NETWORK


def _groups(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    """Neighbouring lines of one measurement, each quantity and scope once, in reverse."""
    group: list[_Line] = []
    seen: set[tuple[str, str]] = set()
    for line in lines:
        name = (line.row.scope, line.row.quantity)
        if group and (_owner(line.row) != _owner(group[0].row) or name in seen):
            yield group[::-1]
            group, seen = [], set()
        group.append(line)
        seen.add(name)
    if group:
        yield group[::-1]


def _owner(row: Row) -> tuple[str, str, str, int]:
    return row.key, row.checkpoint, row.measure, row.revision


def _lines(file: Iterable[bytes], path: Path) -> Iterator[_Line]:
    """The lines of a file; a torn last one is left out."""
    start = 0
    for number, text in enumerate(file, start=1):
        if not text.endswith(b"\n"):
            return
        stop = start + len(text)
        try:
            columns = json.loads(text)
            yield _Line(_checked(Row.from_dict(columns)), columns.get(COMPLETE), start, stop)
        except (ValueError, TypeError, AttributeError) as error:
            raise OutputError(
                f"this line is not a row of results: {error}",
                where=f"{path}:{number}",
                hint="remove the line, or choose another folder",
            ) from error
        start = stop


def _checked(row: Row) -> Row:
    """A row whose numbers are numbers: a file may have been changed by hand.

    Raises:
        ValueError: says what is none.
    """
    for name in _NUMBERS:
        number = getattr(row, name)
        if number is not None and not (isinstance(number, (int, float)) and math.isfinite(number)):
            raise ValueError(f"{name} is {number!r}")
    return row
