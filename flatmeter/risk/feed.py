"""The data where they are computed on: held there where they fit, else brought batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from flatmeter.data.dataset import Dataset
from flatmeter.free_memory import free_memory

SHARE = 0.1
"""Part of a GPU's free memory that the data may take for good."""

Bounds = tuple[int, int]
"""First sample of a batch, and the one after its last."""


class Feed:
    """Batches of fixed data on a device.

    On a GPU with room for all of them the data are copied once. Else each batch is copied from
    pinned memory while the one before it is computed with.

    Args:
        data: on the host.
        device: where batches are wanted.
        dtype: of floating-point inputs.
    """

    def __init__(self, data: Dataset, device: torch.device, dtype: torch.dtype) -> None:
        self.data, self.device, self.dtype = data, device, dtype

    def inputs(self, x: Tensor, non_blocking: bool = False) -> Tensor:
        """Inputs cast and on the device."""
        kind = self.dtype if x.is_floating_point() else None
        return x.to(self.device, kind, non_blocking=non_blocking)

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some samples."""
        inputs, targets = self._held if self._fits else (self.data.inputs, self.data.targets)
        return self.inputs(inputs[start:stop]), targets[start:stop].to(self.device)

    def batches(self, bounds: Sequence[Bounds]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same for several batches, one after the other."""
        if self.device.type != "cuda" or self._fits:
            yield from (self.batch(start, stop) for start, stop in bounds)
            return
        stream = torch.cuda.Stream(self.device)
        ahead = [self._ahead(first, stream) for first in bounds[:1]]
        for number in range(len(bounds)):
            torch.cuda.current_stream(self.device).wait_stream(stream)
            ready = ahead.pop()
            ahead = [
                self._ahead(following, stream) for following in bounds[number + 1 : number + 2]
            ]
            yield ready

    def _ahead(self, bounds: Bounds, stream: torch.cuda.Stream) -> tuple[Tensor, Tensor]:
        """A batch whose copy is under way on a stream of its own."""
        inputs, targets = self._pinned
        using = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(stream):
            x = self.inputs(inputs[slice(*bounds)], non_blocking=True)
            y = targets[slice(*bounds)].to(self.device, non_blocking=True)
        for tensor in (x, y):
            # Its memory is not to be given away while the computation still reads it.
            tensor.record_stream(using)
        return x, y

    @cached_property
    def _fits(self) -> bool:
        if self.device.type != "cuda":
            return False
        size = self.data.inputs.nbytes + self.data.targets.nbytes
        return size <= SHARE * free_memory(self.device)

    @cached_property
    def _held(self) -> tuple[Tensor, Tensor]:
        return self.inputs(self.data.inputs), self.data.targets.to(self.device)

    @cached_property
    def _pinned(self) -> tuple[Tensor, Tensor]:
        return self.data.inputs.pin_memory(), self.data.targets.pin_memory()
