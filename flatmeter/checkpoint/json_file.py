"""Small files of JSON that stand beside weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flatmeter.checkpoint.refusals import refuse_damaged
from flatmeter.checkpoint.safetensors_file import once
from flatmeter.errors import CheckpointRefused

_MAX_BYTES = 1 << 24


def read_json(path: Path) -> Any:
    """What a file says.

    Raises:
        CheckpointRefused: it is longer than any such file, no JSON, or names one thing twice.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointRefused("it is too long", where=str(path))
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise refuse_damaged(path, error) from error
