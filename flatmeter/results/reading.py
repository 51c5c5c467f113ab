"""The measurements that stand in the files of a results folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flatmeter.results.atomic import OutputError, told
from flatmeter.results.record import NETWORK, Row

COMPLETE = "rows"
"""Beside the columns of a headline's line: how many rows its measurement has."""

_NUMBERS = ("value", "stderr", "residual", "ci_low", "ci_high", "loss", "rounding", "revision")

_Line = tuple[Row, "int | None"]


@dataclass(frozen=True)
class Stored:
    """One measurement as it stands in a file.

    Args:
        rows: headline first.
        file: that holds it.
    """

    rows: list[Row]
    file: Path

    @property
    def head(self) -> Row:
        """The headline."""
        return self.rows[0]

    @property
    def failed(self) -> bool:
        """Whether it holds an error instead of a value: it may work now."""
        return any(row.status == "error" for row in self.rows)


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
    found: list[Stored] = []
    unfinished: list[Path] = []
    for path in sorted(folder.glob("results*.jsonl"), key=lambda p: (len(p.name), p.name)):
        with told(path):
            content = path.read_bytes()
        groups = list(_groups(_lines(content, path)))
        # A file by another hand than the store's has no counts at all.
        counted = any(lines[0][1] is not None for lines in groups)
        whole = [lines for lines in groups if _is_whole(lines, counted)]
        if len(whole) < len(groups) or content[-1:] not in (b"", b"\n"):
            unfinished.append(path)
        found += [Stored([row for row, _ in lines], path) for lines in whole]
    return Contents(found, unfinished)


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


def standing(measurements: Iterable[Stored]) -> dict[str, list[Stored]]:
    """The measurements that nothing has replaced, by identity.

    A later revision (``--force``) replaces earlier ones, a later line of a file those before it,
    and a value the errors of the same revision. What is left more than once was measured by
    several writers at the same time.
    """
    groups: dict[str, list[Stored]] = {}
    for one in measurements:
        groups.setdefault(identity(one.head), []).append(one)
    return {name: _standing(group) for name, group in groups.items()}


def _standing(group: Sequence[Stored]) -> list[Stored]:
    newest = max(one.head.revision for one in group)
    by_file = {(one.file, one.head.checkpoint): one for one in group if one.head.revision == newest}
    left = list(by_file.values())
    return [one for one in left if not one.failed] or left[-1:]


def _is_whole(lines: Sequence[_Line], counted: bool) -> bool:
    """Whether it has its headline, which is written last, and all before it."""
    head, count = lines[0]
    return count == len(lines) if counted else head.scope == NETWORK


def _groups(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    """Neighbouring lines of one measurement, each quantity and scope once, in reverse."""
    group: list[_Line] = []
    seen: set[tuple[str, str]] = set()
    for row, count in lines:
        name = (row.scope, row.quantity)
        if group and (_owner(row) != _owner(group[0][0]) or name in seen):
            yield group[::-1]
            group, seen = [], set()
        group.append((row, count))
        seen.add(name)
    if group:
        yield group[::-1]


def _owner(row: Row) -> tuple[str, str, str, int]:
    return row.key, row.checkpoint, row.measure, row.revision


def _lines(content: bytes, path: Path) -> Iterator[_Line]:
    """The lines of a file; a torn last one is left out."""
    for number, text in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            columns = json.loads(text)
            yield _checked(Row.from_dict(columns)), columns.get(COMPLETE)
        except (ValueError, TypeError, AttributeError) as error:
            raise OutputError(
                f"this line is not a row of results: {error}",
                where=f"{path}:{number}",
                hint="remove the line, or choose another folder",
            ) from error


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
