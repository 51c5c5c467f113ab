"""Which checkpoints are meant: files, folders, patterns, or a list on stdin."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from flatmeter.errors import UsageError

_MAGIC = frozenset("*?[")


def expand(arguments: Sequence[str]) -> list[Path]:
    """The checkpoints in the order in which they are named, each once.

    Args:
        arguments: files, folders (their checkpoints, sorted), patterns, ``-`` for stdin.

    Raises:
        UsageError: nothing is named, or a folder, a pattern or stdin holds no checkpoint.
    """
    if not arguments:
        raise UsageError(
            "no checkpoint is named", hint="name files or folders, or begin with: flatmeter demo"
        )
    found: dict[Path, None] = {}
    for argument in arguments:
        for path in _paths(argument):
            found.setdefault(path)
    return list(found)


def _paths(argument: str) -> Iterable[Path]:
    if argument == "-":
        return _listed()
    path = Path(argument)
    if path.is_dir():
        from flatmeter.checkpoint import checkpoints_in

        return checkpoints_in(path)
    if not path.exists() and _MAGIC & set(argument):
        matches = sorted(glob.glob(argument, recursive=True))
        if not matches:
            raise UsageError("no file matches this pattern", where=argument)
        return [path for match in matches for path in _paths(match)]
    return [path]


def _listed() -> Iterable[Path]:
    """One file, folder or pattern per line of stdin; there is no stdin where it was closed."""
    lines = [line.strip() for line in sys.stdin or ()]
    if not any(lines):
        raise UsageError(
            "no checkpoint is named on stdin",
            where="-",
            hint="write one per line, as in: ls runs/*.pt | flatmeter measure -",
        )
    return [path for line in lines if line for path in _paths(line)]
