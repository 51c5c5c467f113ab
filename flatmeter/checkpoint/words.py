"""What a checkpoint says of itself: which network, arguments, data and loss it belongs to."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from flatmeter.errors import CheckpointRefused

#: Version of what :func:`flatmeter.save` writes, and the entry that it stands in.
FORMAT = 1
ENTRY = "flatmeter"

_TYPES: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "model_args": (Mapping,),
    "data": (str,),
    "loss": (str, Mapping),
}
_MAX_VALUES = 2_000
_MAX_TEXT = 20_000


def read_words(
    value: Any, stored: Mapping[str, Any], where: str, *, bare: bool = False
) -> dict[str, Any]:
    """The metadata of a checkpoint.

    Args:
        value: the file's object.
        stored: what the format said besides.
        where: the file, for messages.
        bare: the object is the weights themselves, whose tensors are no metadata.

    Returns:
        What :func:`flatmeter.save` wrote, field by field; of any other file, under ``stored``, the
        plain values beside the weights, so that its ``loss`` or ``model`` is not taken for ours.

    Raises:
        CheckpointRefused: flatmeter's own entry is of a newer version or broken.
    """
    entries = value if isinstance(value, Mapping) else {}
    if ENTRY not in entries:
        named = {k: v if bare else _unwrapped(v) for k, v in entries.items() if isinstance(k, str)}
        plain = {k: v for k, v in named.items() if _is_plain(v)}
        found = {**plain, **stored}
        return {"stored": found} if found else {}
    entry = entries[ENTRY]
    _check(entry, where)
    return {k: v for k, v in entry.items() if v is not None and k != "format"}


def _check(entry: Any, where: str) -> None:
    version = entry.get("format") if isinstance(entry, Mapping) else None
    if not isinstance(version, int):
        raise CheckpointRefused(f"its entry {ENTRY!r} is not what flatmeter writes", where=where)
    if version > FORMAT:
        raise CheckpointRefused(
            f"it was written by a newer flatmeter (format {version})",
            where=where,
            hint="pip install --upgrade flatmeter",
        )
    for name, types in _TYPES.items():
        said = entry.get(name)
        if said is not None and not isinstance(said, types):
            raise CheckpointRefused(
                f"its entry {ENTRY!r} gives {type(said).__name__} for {name}", where=where
            )


def _unwrapped(value: Any) -> Any:
    """The number in a tensor without dimensions, as an accuracy may be stored, or parsed flags."""
    if isinstance(value, Namespace):
        return vars(value)
    if isinstance(value, Tensor) and value.dim() == 0 and value.layout == torch.strided:
        return value.item() if value.device.type == "cpu" and not value.is_quantized else value
    return value


def _is_plain(value: Any) -> bool:
    """Numbers, texts and small nests of them, as JSON can write them."""
    # An optimiser's state, which belongs to no description.
    if isinstance(value, Mapping) and "param_groups" in value:
        return False
    if sum(1 for _ in islice(_nest(value), _MAX_VALUES)) == _MAX_VALUES:
        return False
    try:
        return len(json.dumps(value)) <= _MAX_TEXT
    except (TypeError, ValueError, RecursionError):
        return False


def _nest(value: Any) -> Iterator[Any]:
    """Every value in a nest; endless for one that holds itself."""
    todo = [value]
    while todo:
        item = todo.pop()
        yield item
        if isinstance(item, Mapping):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple)):
            todo.extend(item)
