"""A CSV with something else about checkpoints, joined with results by path, name or hash."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from flatmeter.errors import UsageError

NAMES = ("checkpoint", "path", "file", "name", "sha256")
"""Columns that may say which checkpoint a line is about; the first that there is counts."""


Line = tuple[int, Mapping[str, str]]
"""Number of a line in its file, and its cells by column."""


@dataclass(frozen=True)
class SideTable:
    """Lines of a CSV.

    Args:
        path: of the file.
        columns: its heading.
        lines: cells by column, with the number of their line in the file.
    """

    path: Path
    columns: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def by(self) -> str:
        """The column that names checkpoints."""
        return next(name for name in NAMES if name in self.columns)


def read_side_table(path: Path) -> SideTable:
    """Read a CSV with a heading, one of whose columns names checkpoints.

    Raises:
        UsageError: it cannot be read, has no such column, or lines of different lengths.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # One line of names and cells after another; lines without any are no lines.
            lines = [(reader.line_num, cells) for reader in [csv.reader(file)] for cells in reader]
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", where=str(path)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"it is no CSV in UTF-8: {error}", where=str(path)) from error
    lines = [(number, [cell.strip() for cell in cells]) for number, cells in lines if any(cells)]
    columns = lines[0][1] if lines else []
    if not set(NAMES) & set(columns):
        raise UsageError(
            f"it has no column that names checkpoints, only: {', '.join(columns) or 'nothing'}",
            where=str(path),
            hint=f"call it {', '.join(NAMES[:-1])} or {NAMES[-1]}; columns are separated by commas",
        )
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise UsageError(f"two columns are called {twice!r}", where=str(path))
    for number, cells in lines[1:]:
        if len(cells) != len(columns):
            raise UsageError(
                f"{len(cells)} cells under {len(columns)} columns", where=f"{path}:{number}"
            )
    own = tuple((n, dict(zip(columns, cells, strict=True))) for n, cells in lines[1:])
    return SideTable(path, tuple(columns), own)


def join_lines(
    table: SideTable, checkpoints: Mapping[str, str], wanted: Sequence[str]
) -> tuple[dict[str, Line], list[str]]:
    """The line of each checkpoint.

    A line names a checkpoint by its hash, by its path, or by the end of its path: ``a/net.pt`` and
    ``net`` fit ``runs/a/net.pt`` where they fit no other.

    Args:
        table: the CSV.
        checkpoints: the hash of each, by path or name.
        wanted: columns in which several lines of a checkpoint must agree.

    Returns:
        The lines found, by checkpoint, and the names in the CSV that fit none.

    Raises:
        UsageError: a name fits several checkpoints, or lines of one checkpoint disagree.
    """
    search = _Search(checkpoints, by_hash=table.by == "sha256")
    found: dict[str, Line] = {}
    unknown: list[str] = []
    for line in table.lines:
        name = line[1][table.by]
        fitting = search(name)
        if len(fitting) > 1 and not search.by_hash:
            raise UsageError(
                f"{name!r} may be any of {', '.join(fitting[:3])}",
                where=f"{table.path}:{line[0]}",
                hint="write more of the path",
            )
        unknown += [name] * (not fitting)
        for checkpoint in fitting:
            before = found.setdefault(checkpoint, line)
            if any(before[1][column] != line[1][column] for column in wanted):
                raise UsageError(
                    f"line {before[0]} says something else of {checkpoint}",
                    where=f"{table.path}:{line[0]}",
                )
    return found, unknown


def number_in(table: SideTable, line: Line, column: str) -> float | None:
    """The number in a cell, ``None`` where it is empty, infinite or not a number.

    Raises:
        UsageError: it holds something else.
    """
    text = line[1][column]
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(
            f"{column} is {text!r}, a number is needed", where=f"{table.path}:{line[0]}"
        ) from error
    return value if math.isfinite(value) else None


class _Search:
    """Finds the checkpoints that a name fits."""

    def __init__(self, checkpoints: Mapping[str, str], *, by_hash: bool) -> None:
        self.by_hash = by_hash
        self._found: dict[str, list[str]] = {}
        for checkpoint, sha in checkpoints.items():
            path = PurePath(checkpoint)
            for end in [sha] if by_hash else {path.name, path.stem}:
                self._found.setdefault(end, []).append(checkpoint)

    def __call__(self, name: str) -> list[str]:
        """Those it fits best: as a whole, as the end of a path, or so without its suffix."""
        if self.by_hash:
            return self._found.get(name, [])
        wanted = PurePath(name).parts
        some = self._found.get(PurePath(name).name, [])
        for test in (_same, _end, _end_without_suffix):
            fitting = [c for c in some if wanted and test(wanted, PurePath(c).parts)]
            if fitting:
                return fitting
        return []


def _same(a: Sequence[str], b: Sequence[str]) -> bool:
    return a == b


def _end(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether the shorter path is the end of the longer one."""
    shorter = min(len(a), len(b))
    return a[-shorter:] == b[-shorter:]


def _end_without_suffix(a: Sequence[str], b: Sequence[str]) -> bool:
    return _end(a, (*b[:-1], PurePath(b[-1]).stem))
