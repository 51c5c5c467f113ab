"""An orthonormal basis that grows by one vector at a time, without ever being copied."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 16
COLUMNS = 1 << 18


class Basis:
    """Orthonormal rows ``[m, P]``, allocated in chunks of rows.

    Args:
        dim: P.
        dtype: of the rows.
        device: where they live.
        capacity: most rows there will be.
    """

    def __init__(self, dim: int, dtype: torch.dtype, device: torch.device, capacity: int) -> None:
        self.dim, self.dtype, self.device = dim, dtype, device
        self.chunk = max(1, min(CHUNK, capacity))
        self.count = 0
        self._chunks: list[Tensor] = []

    def __getitem__(self, row: int) -> Tensor:
        return self._chunks[row // self.chunk][row % self.chunk]

    def append(self, vector: Tensor) -> None:
        """Store ``vector [P]`` as the next row."""
        if self.count == self.chunk * len(self._chunks):
            empty = torch.empty(self.chunk, self.dim, dtype=self.dtype, device=self.device)
            self._chunks.append(empty)
        self[self.count].copy_(vector)
        self.count += 1

    def orthogonalise(self, vector: Tensor) -> Tensor:
        """Remove the rows' components from ``vector [P]``, twice, which is enough."""
        for _ in range(2):
            for rows in self._filled():
                vector = vector - (rows @ vector) @ rows
        return vector

    def combine(self, weights: Tensor) -> Tensor:
        """Linear combinations ``weights^T V`` with ``weights [m, r]``: ``[r, P]``."""
        out = torch.zeros(weights.shape[1], self.dim, dtype=self.dtype, device=self.device)
        weights = weights.to(dtype=self.dtype, device=self.device)
        first = 0
        for rows in self._filled():
            out += weights[first : first + len(rows)].T @ rows
            first += len(rows)
        return out

    def compress(self, weights: Tensor) -> None:
        """Become ``weights^T V`` with orthonormal ``weights [m, r]``, in place."""
        weights = weights.to(dtype=self.dtype, device=self.device)
        kept = weights.shape[1]
        for start in range(0, self.dim, COLUMNS):
            columns = slice(start, min(start + COLUMNS, self.dim))
            block = weights.T @ torch.cat([rows[:, columns] for rows in self._filled()])
            for row in range(kept):
                self[row][columns] = block[row]
        self.count = kept

    def _filled(self) -> Iterator[Tensor]:
        for index, rows in enumerate(self._chunks):
            filled = min(self.count - index * self.chunk, self.chunk)
            if filled > 0:
                yield rows[:filled]
