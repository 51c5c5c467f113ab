"""What a reader of a format hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Content:
    """What stands in a file, before the weights in it are looked for.

    Args:
        value: nested mappings and lists of tensors and plain values.
        stored: what the format says of the file besides.
        notes: what was not read.
    """

    value: Any
    stored: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
