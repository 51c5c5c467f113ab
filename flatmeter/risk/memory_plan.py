"""How much of the data, and how many vectors, curvature products take at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import torch

from flatmeter.free_memory import free_memory
from flatmeter.risk.appetite import Appetite

LEAST_BATCH, MAX_BATCH = 64, 4096
"""Samples of a micro-batch, where memory has room."""

WORKING = {"cpu": 2**26, "cuda": 2**32}
"""Bytes of graphs that keep a device busy; larger micro-batches are hardly faster, and take
memory."""

SHARE = 0.25
"""Part of the free memory that products may take; bases of vectors take more of it."""

COTANGENTS = {"cpu": 2**29, "cuda": 2**33}
"""Bytes of cotangents beyond which more columns at a time are no faster."""

TOGETHER = 4
"""Vectors that run together against a micro-batch of that size; more take memory and no less time.
A smaller one takes more vectors."""


class MemoryPlan:
    """From the free memory and one measured micro-batch, settled when first asked.

    Args:
        measure: measures a micro-batch, given the bytes that it may take.
        device: where products are computed.
        sharing: processes that share the memory.
    """

    def __init__(
        self, measure: Callable[[int], Appetite], device: torch.device, sharing: int = 1
    ) -> None:
        self._measure, self._device, self._sharing = measure, device, sharing
        self._most: dict[str, int] = {}
        self._keeps = True

    @cached_property
    def budget(self) -> int:
        """Bytes that products may take."""
        return int(SHARE * free_memory(self._device) / self._sharing)

    @cached_property
    def appetite(self) -> Appetite:
        """Bytes that a product takes for each sample."""
        return self._measure(self.budget)

    @property
    def batch(self) -> int:
        """Samples of a micro-batch, at least 1."""
        quick = min(max(LEAST_BATCH, self._working // self.appetite.kept), MAX_BATCH)
        return max(1, min(quick, self.budget // self.appetite.passing))

    @property
    def _working(self) -> int:
        return WORKING.get(self._device.type, WORKING["cuda"])

    def keeps_graphs(self, batch: int, held: int) -> bool:
        """The graphs of ``held`` samples may be kept between products."""
        return self._keeps and self.appetite.of(batch, held) <= self.budget

    def vectors_at_once(self, batch: int, k: int) -> int:
        """How many of ``k`` vectors may run against a micro-batch together."""
        room = self.budget // (self.appetite.passing * batch)
        quick = TOGETHER * self._working // (self.appetite.kept * batch)
        return max(1, min(k, room, quick, self._most.get("vectors", k)))

    def retreat(self, at_once: int, kept: bool) -> bool:
        """Take less after memory ran out: half as many vectors, then no graph that is kept.

        Args:
            at_once: vectors that ran together.
            kept: graphs were kept.

        Returns:
            Whether that was possible; what is left is a smaller micro-batch.
        """
        if self.halve("vectors", at_once):
            return True
        self._keeps = False
        return kept

    def columns_at_once(self, bytes_each: int, count: int) -> int:
        """How many of ``count`` columns of the loss's curvature may run back together.

        Args:
            bytes_each: what a column takes.
            count: columns that there are.
        """
        most = min(COTANGENTS.get(self._device.type, COTANGENTS["cuda"]), self.budget)
        room = most // max(1, bytes_each)
        return max(1, min(count, room, self._most.get("columns", count)))

    def halve(self, what: Literal["vectors", "columns"], at_once: int) -> bool:
        """Take half as many at once from now on, after memory ran out for so many.

        Returns:
            Whether that was possible.
        """
        if at_once < 2:
            return False
        self._most[what] = at_once // 2
        return True
