"""Seeded subsets in a fixed order, and reading only the samples that are in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from flatmeter.errors import DataError, UsageError
from flatmeter.randomness import derived_generator


class Indexed(Protocol):
    """A data set that is read sample by sample."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def subset_indices(total: int, samples: int | None, seed: int) -> Tensor:
    """Which samples are used: drawn without replacement, then sorted.

    Args:
        total: number of samples that there are.
        samples: number wanted; ``None``, or as many as there are, takes all.
        seed: of the draw.

    Returns:
        Indices ``[min(total, samples)]``, ascending.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"{samples} samples are too few: at least one is needed")
    if samples is None or samples >= total:
        return torch.arange(total)
    drawn = torch.randperm(total, generator=derived_generator(seed, "subset"))[:samples]
    return drawn.sort().values


def subset_note(total: int, kept: int, seed: int) -> tuple[str, ...]:
    """What to tell people about a subset; nothing when all samples are used."""
    return (f"{kept:,} of {total:,} samples, drawn with seed {seed}",) if kept < total else ()


def gather(
    source: Indexed, indices: Sequence[int], name: str, tensor: Callable[[Any], Tensor]
) -> tuple[Tensor, Tensor]:
    """Read samples one by one into two tensors, allocated once.

    Args:
        source: gives ``(x, y)`` for an index.
        indices: of the samples, in order.
        name: of the source, for messages.
        tensor: turns an ``x`` or ``y`` into a tensor.

    Returns:
        Inputs ``[n, …]`` and targets ``[n, …]``.

    Raises:
        DataError: a sample cannot be read, is not a pair, or has another shape than the first.
    """
    out: tuple[Tensor, Tensor] | None = None
    for row, index in enumerate(indices):
        pair = _sample(source, index, name, tensor)
        if out is None:
            out = tuple(t.new_empty((len(indices), *t.shape)) for t in pair)  # type: ignore[assignment]
            assert out is not None
        for whole, part, role in zip(out, pair, ("input", "target"), strict=True):
            if part.shape != whole.shape[1:]:
                raise DataError(
                    f"the {role} of sample {index} is {list(part.shape)}, "
                    f"that of sample {indices[0]} is {list(whole.shape[1:])}",
                    where=name,
                    hint="all samples must have one shape: pad, crop or resize them",
                )
            whole[row] = part
    if out is None:
        raise DataError("there are no samples", where=name)
    return out


def _sample(
    source: Indexed, index: int, name: str, tensor: Callable[[Any], Tensor]
) -> tuple[Tensor, Tensor]:
    try:
        item = source[index]
    except Exception as error:
        raise DataError(
            f"sample {index} cannot be read: {type(error).__name__}: {error}", where=name
        ) from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(
            f"sample {index} is {type(item).__name__}, not a pair (input, target)", where=name
        )
    return tensor(item[0]), tensor(item[1])
