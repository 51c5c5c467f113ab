"""A Krylov space that grows by a block of products at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor

from flatmeter.spectral.krylov import Arrays, Krylov, Step, norm
from flatmeter.spectral.operator import Operator, rounding


class BlockKrylov(Krylov):
    """The block Lanczos recurrence with full reorthogonalisation (Golub and Underwood 1977).

    From b random vectors it sees b copies of a multiple eigenvalue, which one vector cannot.
    Directions that the images of a block no longer bring are replaced by fresh random ones.

    Args:
        op: the operator.
        capacity: most basis vectors held at once.
        seed: of the start and of fresh vectors.
        block: b, at least 2; P at most.
    """

    def __init__(self, op: Operator, capacity: int, seed: int, block: int) -> None:
        super().__init__(op, capacity, seed, None)
        self.block = min(block, op.dim)
        while self.basis.count < self.block:
            self.basis.append(self._fresh_vector())
        self._matrix = np.zeros((0, 0))
        #: Couplings of the rows not yet applied with those that were.
        self._couplings = np.zeros((0, self.block))

    def step(self) -> None:
        """Apply the operator to the newest block and solve the projected problem.

        Raises:
            NonFinite: a product is infinite or not a number.
        """
        first, last = len(self._matrix), self.basis.count
        vectors = torch.stack([self.basis[row] for row in range(first, last)])
        images = self.op.matmat(vectors)
        corner = (images.double() @ vectors.double().T).cpu().numpy()
        self._check(corner)
        corner = (corner + corner.T) / 2
        couplings = self._couplings
        self._matrix = np.block([[self._matrix, couplings], [couplings.T, corner]])
        values, self.weights = eigh(self._matrix)
        radius = self._radius(values)
        bends = self._orthonormalise(images, rounding(self.op.dtype) * radius)
        tails = bends @ self.weights[first:]
        residuals = np.linalg.norm(tails, axis=0)
        self._couplings = np.zeros((last, len(bends)))
        self._couplings[first:] = bends.T
        products = self.products + last - first
        self.trail.append(Step(values, residuals, products, radius, not len(bends)))

    def _orthonormalise(self, images: Tensor, least: float) -> np.ndarray:
        """Set the remainder to orthonormal rows of what ``images [b, P]`` bring; their weights.

        Args:
            images: of the newest block.
            least: length below which a direction is rounding.

        Returns:
            ``[r, b]``: ``images = … + weights^T remainder``, the dots being in the basis.
        """
        found = images[:0]
        bends = np.zeros((len(images), len(images)))
        for column, image in enumerate(images):
            rest = image
            for _ in range(2):
                rest = self.basis.orthogonalise(rest)
                inner = found @ rest
                bends[: len(found), column] += inner.double().cpu().numpy()
                rest = rest - inner @ found
            length = norm(rest)
            self._check(np.array([length]))
            if length > least:
                bends[len(found), column] = length
                found = torch.cat([found, (rest / length)[None]])
        self._remainder = found
        return bends[: len(found)]

    def extend(self) -> None:
        """Append the next block: the remainder, filled up by fresh vectors."""
        for row in self._remainder:
            self.basis.append(row)
        wanted = min(len(self._matrix) + self.block, self.op.dim)
        while self.basis.count < wanted:
            self.basis.append(self._fresh_vector())
        fresh = self.basis.count - len(self._matrix) - self._couplings.shape[1]
        self._couplings = np.pad(self._couplings, ((0, 0), (0, fresh)))

    def restart(self, keep: NDArray[np.intp]) -> None:
        """Shrink to the Ritz vectors ``keep`` (thick restart, Wu and Simon 2000)."""
        weights = self.weights[:, keep]
        self.basis.compress(torch.from_numpy(np.ascontiguousarray(weights)))
        self._couplings = weights.T @ self._couplings
        self._matrix = np.diag(self.values[keep])
        self.restarts += 1

    def _projected_arrays(self) -> Arrays:
        return {"matrix": self._matrix, "couplings": self._couplings}

    def _restore_projected(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._matrix = np.asarray(arrays["matrix"])
        self._couplings = np.asarray(arrays["couplings"])
