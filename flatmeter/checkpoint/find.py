"""The checkpoints in a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from flatmeter.checkpoint.formats import LISTED
from flatmeter.checkpoint.recognise import recognise
from flatmeter.errors import UsageError
from flatmeter.natural_order import natural


def checkpoints_in(folder: Path) -> list[Path]:
    """Files that are checkpoints by their bytes, in natural order (``epoch2`` before ``epoch10``).

    Folders inside are looked through only where the folder itself holds none. A folder that is one
    checkpoint as a whole, such as a distributed one, is returned itself.

    Args:
        folder: that exists.

    Raises:
        UsageError: there are none; says what else was found.
    """
    try:
        if recognise(folder) is not None:
            return [folder]
        direct = [entry for entry in folder.iterdir() if entry.is_file()]
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", where=str(folder)) from error
    seen: Counter[str] = Counter()
    found = _recognised(direct, seen) or _recognised(_below(folder), seen)
    if not found:
        kinds = ", ".join(f"{count} × {kind}" for kind, count in seen.items())
        raise UsageError(
            "the folder holds no checkpoints" + (f", only: {kinds}" if kinds else ""),
            where=str(folder),
            hint="name a file or folder with weights saved by torch.save or safetensors",
        )
    return found


def _below(folder: Path) -> Iterable[Path]:
    # Links to folders are not followed, since they may form a circle.
    for place, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        if Path(place) != folder:
            yield from (Path(place) / name for name in files)


def _recognised(paths: Iterable[Path], seen: Counter[str]) -> list[Path]:
    found = []
    for path in paths:
        if path.name.startswith("."):
            continue
        try:
            kind = recognise(path)
        except OSError:
            continue
        if kind in LISTED:
            found.append(path)
        elif kind is not None:
            seen[kind.value] += 1
    return sorted(found, key=lambda path: (natural(path), path.suffix))
