"""A Krylov space that grows by one product at a time and can shrink to its best Ritz vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatmeter.errors import NonFinite, UsageError
from flatmeter.randomness import derived_generator
from flatmeter.spectral.basis import Basis
from flatmeter.spectral.operator import Operator, rounding
from flatmeter.spectral.ritz import Floats, Projected

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """What is known of the spectrum after a product; all that a decision to stop rests on.

    Args:
        values: ``[m]`` Ritz values, ascending.
        residuals: ``[m]`` norms of the Ritz residuals.
        products: operator applications so far.
        radius: largest magnitude of a Ritz value seen.
        exhausted: the basis spans an invariant subspace, to rounding.
    """

    values: Floats
    residuals: Floats
    products: int
    radius: float
    exhausted: bool


class Krylov:
    """The Lanczos recurrence with full reorthogonalisation, and its Ritz values.

    Attributes:
        block: vectors that are applied together.
        trail: what was known after each step.
        noise: relative rounding error of a product.
        weights: ``[m, m]`` Ritz vectors in columns, in terms of the basis.
        restarts: thick restarts so far.

    Args:
        op: the operator.
        capacity: most basis vectors held at once.
        seed: of the start and of fresh vectors.
        start: ``[P]``, not zero; a Gaussian vector derived from ``seed`` by default.
    """

    block = 1

    def __init__(self, op: Operator, capacity: int, seed: int, start: Tensor | None) -> None:
        self.op, self.seed, self.capacity = op, seed, capacity
        self.noise = op.noise
        self.basis = Basis(op.dim, op.dtype, op.device, capacity)
        self.projected = Projected()
        self.trail: list[Step] = []
        self.restarts, self._drawn = 0, 0
        self.basis.append(self._fresh_vector() if start is None else _unit(start, op.dim))

    @property
    def products(self) -> int:
        """Operator applications so far."""
        return self.trail[-1].products if self.trail else 0

    @property
    def values(self) -> Floats:
        """``[m]`` Ritz values, ascending."""
        return self.trail[-1].values

    @property
    def exhausted(self) -> bool:
        """The basis spans an invariant subspace, to rounding."""
        return self.trail[-1].exhausted

    @property
    def of_one_random_vector(self) -> bool:
        """All of the space comes from a single random vector, and nothing was dropped."""
        return self.block == 1 and self._drawn == 1 and not self.restarts

    @property
    def full(self) -> bool:
        """There is no room for what the next step needs."""
        return min(self.basis.count + self.block, self.op.dim) > self.capacity

    def step(self) -> None:
        """Apply the operator to the newest basis vector and solve the projected problem.

        Raises:
            NonFinite: the product is infinite or not a number.
        """
        vector = self.basis[self.basis.count - 1]
        image = self.op.matmat(vector[None])[0]
        alpha = float(torch.sum(vector * image, dtype=torch.float64))
        self._remainder = self.basis.orthogonalise(image)
        beta = norm(self._remainder)
        self._check(np.array([alpha, beta]))
        values, self.weights = self.projected.grow(alpha, beta)
        radius = self._radius(values)
        exhausted = beta <= rounding(self.op.dtype) * radius
        if exhausted:
            self.projected.betas[-1] = 0.0
        residuals = np.abs(self.projected.betas[-1] * self.weights[-1])
        self.trail.append(Step(values, residuals, self.products + 1, radius, exhausted))

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

    def arrays(self) -> Arrays:
        """All that a later run needs to go on, by name: ``m + 1`` rows as long as P, and numbers.

        For a folder of results: ``np.savez(file, **krylov.arrays())``; see :func:`restored`.
        """
        rows = [self.basis[row] for row in range(self.basis.count)]
        return {
            "basis": torch.stack(rows).cpu().numpy(),
            "remainder": self._remainder.cpu().numpy(),
            "weights": self.weights,
            "counters": np.array(
                [self.block, self.capacity, self.seed, self.restarts, self._drawn, len(self.trail)]
            ),
            **_trail_arrays(self.trail),
            **self._projected_arrays(),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Become what :meth:`arrays` was taken from."""
        self.basis.count = 0
        for row in arrays["basis"]:
            self.basis.append(self._tensor(row))
        self._remainder = self._tensor(arrays["remainder"])
        self.weights = np.asarray(arrays["weights"])
        *_, self.restarts, self._drawn, _ = (int(c) for c in arrays["counters"])
        self.trail = _trail_of(arrays)
        self._restore_projected(arrays)

    def _projected_arrays(self) -> Arrays:
        p = self.projected
        return {"alphas": np.array(p.alphas), "betas": np.array(p.betas), "arrow": p.arrow}

    def _restore_projected(self, arrays: Mapping[str, np.ndarray]) -> None:
        alphas, betas = arrays["alphas"].tolist(), arrays["betas"].tolist()
        self.projected = Projected(alphas, betas, np.asarray(arrays["arrow"]))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(dtype=self.op.dtype, device=self.op.device)

    def _radius(self, values: Floats) -> float:
        before = self.trail[-1].radius if self.trail else 0.0
        return max(before, float(np.abs(values).max()))

    def _check(self, numbers: Floats) -> None:
        """Refuse what a product that is not finite makes."""
        if not np.isfinite(numbers).all():
            raise NonFinite(
                f"curvature product {self.products + 1} is infinite or not a number",
                hint="Try --dtype float64, or look for weights or data that overflow.",
            )

    def _fresh_vector(self) -> Tensor:
        """A random unit vector orthogonal to the basis."""
        generator = derived_generator(self.seed, "lanczos", self._drawn)
        self._drawn += 1
        vector = torch.randn(self.op.dim, generator=generator, dtype=torch.float64)
        vector = self.basis.orthogonalise(vector.to(dtype=self.op.dtype, device=self.op.device))
        return vector / norm(vector)


def _trail_arrays(trail: list[Step]) -> Arrays:
    return {
        "trail": np.array([(len(s.values), s.products, s.radius, s.exhausted) for s in trail]),
        "trail_values": np.concatenate([s.values for s in trail]),
        "trail_residuals": np.concatenate([s.residuals for s in trail]),
    }


def _trail_of(arrays: Mapping[str, np.ndarray]) -> list[Step]:
    ends = np.cumsum(arrays["trail"][:, 0]).astype(int)
    values = np.split(arrays["trail_values"], ends[:-1])
    residuals = np.split(arrays["trail_residuals"], ends[:-1])
    return [
        Step(v, r, int(products), float(radius), bool(exhausted))
        for v, r, (_, products, radius, exhausted) in zip(
            values, residuals, arrays["trail"], strict=True
        )
    ]


def _unit(start: Tensor, dim: int) -> Tensor:
    length = norm(start)
    if start.shape != (dim,) or not length > 0:
        raise UsageError(f"a Lanczos start must be a non-zero vector of length {dim}")
    return start / length


def norm(vector: Tensor) -> float:
    """Euclidean length of ``vector``, summed in float64."""
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
