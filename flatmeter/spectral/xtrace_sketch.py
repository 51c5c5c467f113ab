"""What XTrace keeps of its probes, all that its values are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatmeter.randomness import derived_generator
from flatmeter.spectral.basis import Basis
from flatmeter.spectral.finite import finite
from flatmeter.spectral.operator import Operator, rounding

Floats = NDArray[np.float64]


class Sketch:
    """Gaussian probes, an orthonormal basis of their products, and the inner products of both.

    Attributes:
        count: probes k so far; two products each.
        basis: Q, ``[k, P]`` orthonormal rows with the span of ``A ω_1 … A ω_k``.
        probes: the ω, in blocks ``[b, P]``.
        H: ``[k, k]`` ``Q A Q^T``.
        R: ``[k, k]`` ``Q A Ω``, upper triangular.
        W: ``[k, k]`` ``Q Ω``.
        forms: ``[k]`` ``ω^T A ω``.
        squares: ``[k]`` ``‖ω‖²``.

    Args:
        op: the operator A.
        block: probes added at a time.
    """

    def __init__(self, op: Operator, block: int) -> None:
        self.block = block
        # The basis grows by blocks whatever the budget, which may be larger in a later run: the
        # last bits of a projection depend on how the rows are laid out.
        self.basis = Basis(op.dim, op.dtype, op.device, block)
        self.probes: list[Tensor] = []
        self.H, self.R, self.W = np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0))
        self.forms, self.squares = np.zeros(0), np.zeros(0)

    @property
    def count(self) -> int:
        """Probes so far."""
        return len(self.forms)

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, for ``np.savez``: 2 k rows as long as P, and small matrices."""
        rows = [self.basis[row] for row in range(self.count)]
        small = {name: getattr(self, name) for name in ("H", "R", "W", "forms", "squares")}
        return {
            "basis": torch.stack(rows).cpu().numpy(),
            "probes": torch.cat(self.probes).cpu().numpy(),
            "block": np.array(self.block),
            **small,
        }

    @classmethod
    def of_arrays(cls, op: Operator, arrays: Mapping[str, np.ndarray]) -> Sketch:
        """What :meth:`arrays` was taken from, on the operator's device."""
        sketch = cls(op, int(arrays["block"]))
        for row in torch.from_numpy(np.array(arrays["basis"])):
            sketch.basis.append(row)
        probes = torch.from_numpy(np.array(arrays["probes"])).to(op.device, op.dtype)
        sketch.probes = list(probes.split(sketch.block))
        for name in ("H", "R", "W", "forms", "squares"):
            setattr(sketch, name, np.array(arrays[name]))
        return sketch

    def grow(self, op: Operator, seed: int, purpose: str) -> None:
        """Add a block of probes, fewer where P is reached, by two products each.

        Raises:
            NonFinite: a product is infinite or not a number.
        """
        old, count = self.count, min(self.count + self.block, op.dim)
        probes = torch.stack([_gaussian(op, i, seed, purpose) for i in range(old, count)])
        images = op.matmat(probes)
        forms = finite((probes * images).sum(1, dtype=torch.float64).cpu().numpy())
        pivots = [self._append(op, image, seed, purpose) for image in images]
        fresh = torch.stack([self.basis[row] for row in range(old, count)])
        self.probes.append(probes)

        known = self._inner(probes)
        known_images = self._inner(images)
        self.W = np.block([[self.W, known[:old]], [self._earlier(fresh), known[old:]]])
        corner = np.triu(known_images[old:], 1) + np.diag(pivots)
        self.R = np.block([[self.R, known_images[:old]], [np.zeros((count - old, old)), corner]])
        sides = finite(self._inner(op.matmat(fresh)))
        corner = (sides[old:] + sides[old:].T) / 2
        self.H = np.block([[self.H, sides[:old]], [sides[:old].T, corner]])
        self.forms = np.append(self.forms, forms)
        self.squares = np.append(
            self.squares, probes.square().sum(1, dtype=torch.float64).cpu().numpy()
        )

    def _append(self, op: Operator, image: Tensor, seed: int, purpose: str) -> float:
        """Append what the basis lacks of ``image [P]``; its norm, or least if that is rounding.

        Where an image brings nothing new, any direction serves: it only has to be left out first.
        """
        norm = float(torch.linalg.vector_norm(image, dtype=torch.float64))
        remainder = self.basis.orthogonalise(image)
        pivot = float(torch.linalg.vector_norm(remainder, dtype=torch.float64))
        least = rounding(op.dtype) * norm
        if pivot <= least:
            remainder = _gaussian(op, self.basis.count, seed, f"{purpose}, direction")
            remainder = self.basis.orthogonalise(remainder)
        unit = remainder / torch.linalg.vector_norm(remainder, dtype=torch.float64).to(op.dtype)
        self.basis.append(unit)
        return max(pivot, least) or 1.0

    def _inner(self, vectors: Tensor) -> Floats:
        """Inner products of the basis with ``vectors [b, P]``, summed in float64: ``[m, b]``."""
        return _sums((self.basis[row] for row in range(self.basis.count)), vectors)

    def _earlier(self, fresh: Tensor) -> Floats:
        """Inner products of the newest rows ``[b, P]`` with all earlier probes: ``[b, k]``."""
        return _sums((probe for block in self.probes[:-1] for probe in block), fresh).T


def _gaussian(op: Operator, index: int, seed: int, purpose: str) -> Tensor:
    """Probe ``index``, ``[P]``: normalising what is left of it needs a rotation-invariant one."""
    generator = derived_generator(seed, purpose, index)
    vector = torch.randn(op.dim, generator=generator, dtype=torch.float64)
    return vector.to(dtype=op.dtype, device=op.device)


def _sums(rows: Iterable[Tensor], vectors: Tensor) -> Floats:
    """Inner products of rows ``[P]`` with ``vectors [b, P]``, summed in float64: ``[m, b]``."""
    sums = [(vectors * row).sum(1, dtype=torch.float64) for row in rows]
    if not sums:
        return np.zeros((0, len(vectors)))
    stacked: Floats = torch.stack(sums).cpu().numpy()
    return stacked
