"""A checkpoint written again with other values in some of its weights, all else as it was."""

from __future__ import annotations

import copy
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flatmeter.checkpoint.checkpoint import Checkpoint
from flatmeter.checkpoint.fingerprint import sha256
from flatmeter.checkpoint.read import READERS, readable_format
from flatmeter.checkpoint.unwrap import candidates
from flatmeter.checkpoint.whole_file import whole_file
from flatmeter.errors import CheckpointRefused

SAFETENSORS = ".safetensors"


def rewrite(
    checkpoint: Checkpoint, tensors: Mapping[str, Tensor], used: Container[str], path: Path
) -> tuple[str, ...]:
    """Write a checkpoint with some of its weights replaced, whole or not at all.

    A path that ends in ``.safetensors`` is written so, any other as ``torch.save`` does. What
    stands beside the weights is kept, but for what belongs to the weights as they were: the states
    of optimisers, and other sets of weights such as averaged ones.

    Args:
        checkpoint: what was read.
        tensors: new values by their names in the file; those that are one tensor stay one, where
            the format can say so.
        used: names in the file that belong to the network.
        path: of the new file.

    Returns:
        Notes on what was left out.

    Raises:
        CheckpointRefused: the file has changed since it was read.
        FlatmeterError: the new file cannot be written.
    """
    if checkpoint.ran:
        note = "the weights alone are written, since what stands beside them was run to be read"
        return (note, *write_weights(path, {**checkpoint.tensors, **tensors}, {}))
    source, lost = checkpoint.path, list[str]()
    content = READERS[readable_format(source)](source)
    if sha256(source) != checkpoint.sha256:
        raise CheckpointRefused("the file changed while it was read", where=str(source))
    way = _way(content.value, checkpoint.key)
    if way is None:  # the weights were taken from among others
        return write_weights(path, {**checkpoint.tensors, **tensors}, content.stored)
    dropped: list[str] = []
    value = _replaced(content.value, way, tensors, used, dropped)
    if path.suffix == SAFETENSORS:
        lost, value = _beside(value, way), _at(value, way)
    notes = write_weights(path, value, content.stored)
    if dropped:
        notes += (f"left out, since they belong to the weights as they were: {', '.join(dropped)}",)
    if lost:
        notes += (f"left out, as safetensors hold tensors alone: {', '.join(lost)}",)
    return notes


def write_weights(
    path: Path, value: Mapping[str, Any], stored: Mapping[str, Any]
) -> tuple[str, ...]:
    """Write weights by name, or for ``torch.save`` a nest that holds them, whole or not at all.

    Args:
        path: of the new file.
        value: what it is to hold.
        stored: metadata of a file of safetensors, which only such a file can hold.

    Returns:
        Notes on what was left out.

    Raises:
        FlatmeterError: the file cannot be written.
    """
    if path.suffix != SAFETENSORS:
        with whole_file(path) as temporary, temporary.open("wb") as file:
            torch.save(value, file)
        lost = [name for name in stored if name != "format"]
        return (f"left out, metadata of safetensors: {', '.join(lost)}",) if lost else ()
    # Each name has numbers of its own: the format refuses what shares memory.
    weights = {k: v.detach().clone().contiguous() for k, v in value.items() if torch.is_tensor(v)}
    said = {k: v for k, v in stored.items() if isinstance(v, str)}
    with whole_file(path) as temporary:
        save_file(weights, temporary, metadata={"format": "pt", **said})
    return ()


def _way(value: Any, key: str) -> tuple[str, ...] | None:
    """The names that lead to a dotted path, of which a part may hold dots itself."""
    if not key:
        return ()
    if not isinstance(value, Mapping):
        return None
    if key in value:
        return (key,)
    for dot in (match.start() for match in re.finditer(r"\.", key)):
        rest = _way(value.get(key[:dot]), key[dot + 1 :])
        if rest is not None:
            return (key[:dot], *rest)
    return None


def _at(value: Any, way: tuple[str, ...]) -> Any:
    for name in way:
        value = value[name]
    return value


def _beside(value: Any, way: tuple[str, ...]) -> list[str]:
    """What stands beside the way and, at its end, what is no tensor."""
    found = []
    for name in way:
        found += [str(other) for other in value if other != name]
        value = value[name]
    return [*found, *(str(name) for name, entry in value.items() if not torch.is_tensor(entry))]


def _replaced(
    value: Any,
    way: tuple[str, ...],
    tensors: Mapping[str, Tensor],
    used: Container[str],
    dropped: list[str],
) -> Any:
    """The nest with other weights at the end of the way; the original is left as it is."""
    new = copy.copy(value)
    if way:
        new[way[0]] = _replaced(value[way[0]], way[1:], tensors, used, dropped)
        stale = [name for name, other in value.items() if name != way[0] and _is_stale(other)]
    else:
        new.update(tensors)
        stale = [name for name, other in value.items() if name not in used and _is_stale(other)]
    for name in stale:
        del new[name]
        dropped.append(str(name))
    return new


def _is_stale(value: Any) -> bool:
    """The state of an optimiser, weights, or a weight."""
    if isinstance(value, Tensor):
        return value.ndim > 1
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, Mapping) and "param_groups" in item for item in value)
    if not isinstance(value, Mapping):
        return False
    found = [_at(value, _way(value, place) or ()) for place in candidates(value)]
    entries = [entry for weights in found for entry in weights.values()]
    return "param_groups" in value or any(torch.is_tensor(e) and e.ndim > 1 for e in entries)
