"""Eigenvalues that one Lanczos run resolves, taken out so that random vectors see the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flatmeter.spectral.krylov import Krylov
from flatmeter.spectral.operator import Operator
from flatmeter.spectral.ritz import Floats

RESOLVED = 1e-3
"""Residual below which, relative to its size, a Ritz value counts as an eigenvalue: it is then off
by about the square of that."""


@dataclass(frozen=True)
class Outliers:
    """Eigenpairs at both ends of a spectrum.

    Args:
        values: ``[q]`` eigenvalues, ascending.
        vectors: ``[q, P]`` orthonormal, in the operator's dtype, on its device.
        products: operator applications that they took.
    """

    values: Floats
    vectors: Tensor
    products: int

    @classmethod
    def none(cls, op: Operator) -> Outliers:
        """Nothing taken out."""
        return cls(np.zeros(0), torch.zeros(0, op.dim, dtype=op.dtype, device=op.device), 0)

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, for ``np.savez``: q rows as long as P, and their values."""
        return {
            "outliers": self.values,
            "outlier_vectors": self.vectors.cpu().numpy(),
            "outlier_products": np.array(self.products),
        }

    @classmethod
    def of_arrays(cls, op: Operator, arrays: Mapping[str, np.ndarray]) -> Outliers:
        """What :meth:`arrays` was taken from, on the operator's device."""
        vectors = torch.from_numpy(np.array(arrays["outlier_vectors"])).to(op.device, op.dtype)
        return cls(np.array(arrays["outliers"]), vectors, int(arrays["outlier_products"]))


def resolved(
    op: Operator, steps: int, seed: int, progress: Callable[[str], None] | None = None
) -> Outliers:
    """The eigenpairs whose residual is below ``RESOLVED`` after some steps of Lanczos.

    Args:
        op: the operator.
        steps: products; fewer where the Krylov space is exhausted before.
        seed: of the start.
        progress: told in words after each product; may raise to stop the run.

    Raises:
        NonFinite: a product is infinite or not a number.
    """
    krylov = Krylov(op, steps, seed, None)
    while True:
        krylov.step()
        if progress is not None:
            progress(f"density: outermost eigenvalues, {krylov.products} products")
        if krylov.exhausted or krylov.products == steps:
            break
        krylov.extend()
    last = krylov.trail[-1]
    index = np.nonzero(last.residuals <= RESOLVED * np.abs(last.values))[0]
    return Outliers(last.values[index], krylov.ritz_vectors(index), krylov.products)
