"""A finite, ordered set of samples held in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from flatmeter.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Inputs and targets in a fixed order.

    Args:
        inputs: ``[N, …]``, real numbers or integers (token ids), all finite.
        targets: ``[N]`` labels or ``[N, …]`` values.
        name: where they came from, in words.
        classes: number of classes, where the source says it.
        notes: what was done to the samples, for people.
        source_size: samples of the source that these were drawn from at random; ``None`` where
            they are all there is.
        loss: name of the loss that the targets are for, where the source knows it.
        parts: names of what is stacked in the second dimension of the inputs: tokens and what a
            tokenizer gives beside them.

    Raises:
        DataError: no sample, lengths that differ, a dtype that no network takes, or a value that
            is not finite.
    """

    inputs: Tensor
    targets: Tensor
    name: str
    classes: int | None = None
    notes: tuple[str, ...] = ()
    source_size: int | None = None
    loss: str | None = None
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for role, tensor in (("inputs", self.inputs), ("targets", self.targets)):
            _check(tensor, role, self.name)
        if self.inputs.dtype in (torch.uint8, torch.bool):
            raise DataError(
                f"inputs are {_dtype(self.inputs)}, which no layer takes",
                where=self.name,
                hint="store them as float32, scaled and normalised as in training",
            )
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"{len(self.inputs)} inputs but {len(self.targets)} targets", where=self.name
            )
        if len(self.inputs) == 0:
            raise DataError("there are no samples", where=self.name)
        _check_finite(self.inputs, "inputs", self.name)
        _check_finite(self.targets, "targets", self.name)

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        inputs, targets = (f"{_dtype(t)} {[*t.shape]}" for t in (self.inputs, self.targets))
        return f"Dataset({self.name!r}: inputs {inputs}, targets {targets})"

    @property
    def unseen(self) -> float:
        """Part of the source that these samples leave out; 0 where they are all there is."""
        return 0.0 if self.source_size is None else 1.0 - len(self) / self.source_size

    def fingerprint(self) -> str:
        """SHA-256 over the bytes, shapes and dtypes of inputs and targets."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            # As bytes, since NumPy has no bfloat16.
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _check(tensor: object, role: str, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise DataError(f"{role} are {type(tensor).__name__}, not a tensor", where=name)
    if tensor.dim() == 0:
        raise DataError(f"{role} are a single number, not a list of samples", where=name)
    if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
        raise DataError(
            f"{role} are {_dtype(tensor)} ({tensor.layout}), which is not supported",
            where=name,
            hint="store them as an ordinary tensor of real numbers",
        )


def _check_finite(tensor: Tensor, role: str, name: str) -> None:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    # The smallest and largest are NaN if any value is, and need no copy.
    smallest, largest = torch.aminmax(tensor.detach())
    if bool(torch.isfinite(smallest)) and bool(torch.isfinite(largest)):
        return
    first = next(i for i, sample in enumerate(tensor) if not bool(torch.isfinite(sample).all()))
    raise DataError(f"{role} of sample {first} hold a value that is not finite", where=name)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
