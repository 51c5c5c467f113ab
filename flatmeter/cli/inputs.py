"""Which checkpoints are meant: files, folders, patterns, or a list on stdin."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flatmeter.config.shard import Shard, parse_shard
from flatmeter.errors import UsageError
from flatmeter.ranks.launch import array_task
from flatmeter.results.number import counted

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


def part_of(
    paths: Sequence[Path], shard: str, environment: Mapping[str, str]
) -> tuple[list[Path], str]:
    """The part of the checkpoints that this process is to measure, and which it is in words.

    Args:
        paths: all of them.
        shard: ``K/N``, or ``auto`` for the task of an array job.
        environment: variables of the process.

    Raises:
        UsageError: it is no task of an array job.
    """
    part = Shard(*array_task(environment)) if shard == "auto" else parse_shard(shard)
    own = part.of(paths)
    some = f", {own[0]} to {own[-1]}" if len(own) > 1 else "".join(f", {path}" for path in own)
    return own, f"part {part}: {len(own):,} of {counted(len(paths), 'checkpoint')}{some}"


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
