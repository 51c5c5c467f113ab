"""A Krylov space that grows by one product at a time and can shrink to its best Ritz vectors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatmeter.errors import NonFinite, UsageError
from flatmeter.randomness import derived_generator
from flatmeter.spectral.basis import Basis
from flatmeter.spectral.operator import Operator, rounding
from flatmeter.spectral.ritz import Floats, Projected


class Krylov:
    """The Lanczos recurrence with full reorthogonalisation, and its Ritz values.

    Attributes:
        products: operator applications so far.
        values: ``[m]`` Ritz values, ascending.
        noise: relative rounding error of a product.
        weights: ``[m, m]`` Ritz vectors in columns, in terms of the basis.
        residuals: ``[m]`` norms ``|β s_k|`` of the Ritz residuals.
        radius: largest magnitude of a Ritz value seen.
        exhausted: the basis spans an invariant subspace, to rounding.
        restarts: thick restarts so far.

    Args:
        op: the operator.
        capacity: most basis vectors held at once.
        seed: of the start and of fresh vectors.
        start: ``[P]``, not zero; a Gaussian vector derived from ``seed`` by default.
    """

    def __init__(self, op: Operator, capacity: int, seed: int, start: Tensor | None) -> None:
        self.op, self.seed, self.capacity = op, seed, capacity
        self.noise = op.noise
        self.basis = Basis(op.dim, op.dtype, op.device, capacity)
        self.projected = Projected()
        self.products, self.restarts, self.radius, self._drawn = 0, 0, 0.0, 0
        self.basis.append(self._fresh_vector() if start is None else _unit(start, op.dim))

    def step(self) -> None:
        """Apply the operator to the newest basis vector and solve the projected problem.

        Raises:
            NonFinite: the product is infinite or not a number.
        """
        vector = self.basis[self.basis.count - 1]
        image = self.op.matmat(vector[None])[0]
        self.products += 1
        alpha = float(torch.sum(vector * image, dtype=torch.float64))
        self._remainder = self.basis.orthogonalise(image)
        beta = _norm(self._remainder)
        if not (np.isfinite(alpha) and np.isfinite(beta)):
            raise NonFinite(
                f"curvature product {self.products} is infinite or not a number",
                hint="Try --dtype float64, or look for weights or data that overflow.",
            )
        self.values, self.weights = self.projected.grow(alpha, beta)
        self.radius = max(self.radius, float(np.abs(self.values).max()))
        self.exhausted = beta <= rounding(self.op.dtype) * self.radius
        if self.exhausted:
            self.projected.betas[-1] = 0.0
        self.residuals: Floats = np.abs(self.projected.betas[-1] * self.weights[-1])

    def extend(self) -> None:
        """Append the next basis vector: the remainder, or a fresh one where there is none left."""
        if self.exhausted:
            self.basis.append(self._fresh_vector())
        else:
            self.basis.append(self._remainder / self.projected.betas[-1])

    def restart(self, keep: NDArray[np.intp]) -> None:
        """Shrink to the Ritz vectors ``keep`` (thick restart, Wu and Simon 2000)."""
        weights = self.weights[:, keep]
        self.basis.compress(torch.from_numpy(np.ascontiguousarray(weights)))
        self.projected.restart(self.values[keep], weights[-1])
        self.restarts += 1

    def ritz_vectors(self, index: NDArray[np.intp]) -> Tensor:
        """The Ritz vectors of these Ritz values, ``[len(index), P]``."""
        return self.basis.combine(torch.from_numpy(np.ascontiguousarray(self.weights[:, index])))

    def _fresh_vector(self) -> Tensor:
        """A random unit vector orthogonal to the basis."""
        generator = derived_generator(self.seed, "lanczos", self._drawn)
        self._drawn += 1
        vector = torch.randn(self.op.dim, generator=generator, dtype=torch.float64)
        vector = self.basis.orthogonalise(vector.to(dtype=self.op.dtype, device=self.op.device))
        return vector / _norm(vector)


def _unit(start: Tensor, dim: int) -> Tensor:
    norm = _norm(start)
    if start.shape != (dim,) or not norm > 0:
        raise UsageError(f"a Lanczos start must be a non-zero vector of length {dim}")
    return start / norm


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
