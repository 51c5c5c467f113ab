"""Whatever a person calls data, as a Dataset: pairs of tensors, mappings, PyTorch data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatmeter.data.dataset import Dataset
from flatmeter.data.subset import gather, subset_indices, subset_note
from flatmeter.data.tokens import PARTS, are_tokens, token_dataset
from flatmeter.errors import DataError

INPUT_KEYS = ("inputs", "input", "x", "images", "data")
TARGET_KEYS = ("targets", "target", "y", "labels", "label")


def as_dataset(value: Any, *, name: str, samples: int | None = None, seed: int = 0) -> Dataset:
    """The value as a Dataset, of all samples or of a seeded subset.

    Args:
        value: a :class:`Dataset`, ``(inputs, targets)``, a mapping with two such entries or with
            ``input_ids``, integers ``[n, T]`` whose next ones are to be predicted, or a PyTorch
            data set of pairs, of which only the samples in the subset are read.
        name: where it came from.
        samples: size of the subset, ``None`` for all.
        seed: of the subset.

    Raises:
        DataError: it is something else, or the samples do not fit together.
    """
    if isinstance(value, Mapping):
        value = from_mapping(value, name)
    if are_tokens(value):
        value = token_dataset({PARTS[0]: value.detach()}, None, name)
    if isinstance(value, Dataset):
        return _subset(value, samples, seed)
    if isinstance(value, (tuple, list)):
        return _from_pair(value, name, samples, seed)
    if isinstance(value, torch.utils.data.DataLoader):
        raise DataError(
            "a DataLoader has an order of its own",
            where=name,
            hint="give the data set behind it (loader.dataset), without augmentation",
        )
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")) or _scalar(value):
        raise DataError(
            f"{type(value).__name__} is not data",
            where=name,
            hint="give a flatmeter.Dataset, (inputs, targets), or a torch data set of pairs",
        )
    return _from_samples(value, name, samples, seed)


def from_mapping(value: Mapping[Any, Any], name: str) -> tuple[Any, Any] | Dataset:
    """The entries of a mapping that hold inputs and targets, or sequences of tokens.

    Raises:
        DataError: no entry, or more than one, is called so; lists what there is.
    """
    labelled = bool(_called(value, TARGET_KEYS))
    if PARTS[0] in value:
        parts = {part: _tensor(value[part], name) for part in PARTS if part in value}
        targets = _entry(value, TARGET_KEYS, "targets", name) if labelled else None
        return token_dataset(parts, None if targets is None else _labels(targets, name), name)
    inputs = _entry(value, INPUT_KEYS, "inputs", name)
    if not labelled and are_tokens(tokens := _tensor(inputs, name)):
        return token_dataset({PARTS[0]: tokens}, None, name)
    return inputs, _entry(value, TARGET_KEYS, "targets", name)


def _labels(value: Any, name: str) -> Tensor:
    return _targets(_tensor(value, name))


def _called(value: Mapping[Any, Any], known: tuple[str, ...]) -> list[Any]:
    return [key for key in value if isinstance(key, str) and key.lower() in known]


def _entry(value: Mapping[Any, Any], known: tuple[str, ...], role: str, name: str) -> Any:
    found = _called(value, known)
    if len(found) != 1:
        said = f"{role} could be {' or '.join(found)}" if found else f"no entry holds {role}"
        raise DataError(
            f"{said}; it has: {', '.join(map(str, value)) or 'nothing'}",
            where=name,
            hint=f"call it one of: {', '.join(known)}",
        )
    return value[found[0]]


def _scalar(value: Any) -> bool:
    return isinstance(value, (str, bytes, Tensor, np.ndarray, type))


def _from_pair(pair: Any, name: str, samples: int | None, seed: int) -> Dataset:
    if len(pair) != 2:
        raise DataError(
            f"{len(pair)} parts instead of two", where=name, hint="give (inputs, targets)"
        )
    inputs, targets = (_tensor(part, name) for part in pair)
    whole = Dataset(inputs, _targets(targets), name)
    return _subset(whole, samples, seed)


def _from_samples(value: Any, name: str, samples: int | None, seed: int) -> Dataset:
    total = len(value)
    indices = subset_indices(total, samples, seed)
    inputs, targets = gather(value, indices.tolist(), name, lambda part: _tensor(part, name))
    classes = getattr(value, "classes", None)
    return Dataset(
        inputs,
        _targets(targets),
        name,
        classes=len(classes) if isinstance(classes, (list, tuple)) else None,
        notes=subset_note(total, len(indices), seed),
        source_size=total,
    )


def _subset(data: Dataset, samples: int | None, seed: int) -> Dataset:
    indices = subset_indices(len(data), samples, seed)
    if len(indices) == len(data):
        return data
    return dataclasses.replace(
        data,
        inputs=data.inputs[indices],
        targets=data.targets[indices],
        notes=(*data.notes, *subset_note(len(data), len(indices), seed)),
        source_size=data.source_size or len(data),
    )


def _tensor(value: Any, name: str) -> Tensor:
    """A tensor of the value, detached, in a dtype that networks take."""
    if isinstance(value, Tensor):
        found = value.detach()
    elif isinstance(value, (np.ndarray, np.generic, int, float, list, tuple)):
        found = _converted(value, name)
    else:
        hint = "add a transform that gives a tensor, such as torchvision's ToTensor"
        raise DataError(f"{type(value).__name__} is not a tensor", where=name, hint=hint)
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found


def _converted(value: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(np.ascontiguousarray(value) if np.ndim(value) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot be made a tensor: {error}", where=name) from error


def _targets(targets: Tensor) -> Tensor:
    """Labels as int64, values as they are."""
    return targets if targets.is_floating_point() or targets.is_complex() else targets.long()
