"""Files of safetensors: a JSON header, then raw bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from flatmeter.checkpoint.content import Content
from flatmeter.checkpoint.refusals import refuse_damaged
from flatmeter.errors import CheckpointRefused

#: A tensor takes about a hundred bytes of it.
_MAX_HEADER = 1 << 24


def read_safetensors(path: Path) -> Content:
    """Every tensor of a file, by name, and its ``__metadata__``.

    Raises:
        CheckpointRefused: it is damaged or cut short.
    """
    _check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Content(tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
        raise refuse_damaged(path, error) from error


def _check_header(path: Path) -> None:
    """The header lies within the file and names nothing twice, which the library lets pass."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > size - 8:
            raise CheckpointRefused(
                f"the file is cut short: its header alone should take {length:,} bytes",
                where=str(path),
                hint="fetch it again",
            )
        if length > _MAX_HEADER:
            raise CheckpointRefused(f"its header takes {length:,} bytes", where=str(path))
        try:
            json.loads(file.read(length), object_pairs_hook=once)
        except (ValueError, RecursionError) as error:
            raise refuse_damaged(path, error) from error


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose names must differ; Python's reader keeps the last of two."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return found
