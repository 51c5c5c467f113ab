"""What a reader of a format hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Content:
    """What stands in a file, before the weights in it are looked for.

    Args:
        value: nested mappings and lists of tensors and plain values.
        stored: what the format says of the file besides.
        notes: what was not read, or was run.
        ran: classes and functions that the file names and that were run, where a person asked for
            it; empty for files that are read as data.
        modules: networks in such a file, by the dotted path of their weights.
    """

    value: Any
    stored: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
