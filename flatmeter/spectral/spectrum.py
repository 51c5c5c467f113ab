"""What Lanczos returns: both ends of a spectrum, each value with its certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from flatmeter.estimate import Estimate, Why
from flatmeter.spectral.krylov import Krylov
from flatmeter.spectral.ritz import unseen


@dataclass(frozen=True)
class End:
    """One end of a spectrum, outermost eigenvalue first.

    Args:
        values: ``[k]`` float64, on the CPU.
        residuals: ``[k]`` norms ``‖A y − θ y‖`` of the Ritz pairs.
        bounds: ``[k]`` certified errors of the values, see :func:`flatmeter.spectral.ritz.certify`.
        settled: ``[k]`` whether each met the tolerance or came as close as rounding allows.
        converged: ``[k]`` whether each met the tolerance.
        vectors: ``[k, P]`` the Ritz vectors, on the operator's device.
        history: ``[steps, k]`` the values after each step, NaN where there were fewer.
    """

    values: Tensor
    residuals: Tensor
    bounds: Tensor
    settled: tuple[bool, ...]
    converged: tuple[bool, ...]
    vectors: Tensor
    history: np.ndarray


@dataclass(frozen=True)
class Spectrum:
    """The wanted ends of a symmetric operator's spectrum.

    Args:
        upper: the largest eigenvalues, descending; no values where they were not asked for.
        lower: the smallest eigenvalues, ascending; no values where they were not asked for.
        products: operator applications spent.
        converged: every wanted value met the tolerance.
        why: how the run ended.
        alphas: ``[m]`` diagonal of the projected matrix, float64; empty for blocks.
        betas: ``[m]`` its off-diagonal and, last, the norm of the remainder; what a density
            is made from, as long as ``restarts`` is 0; empty for blocks.
        krylov: hand it back to extend the run, which adds to it.
        restarts: thick restarts that the memory bound forced.
    """

    upper: End
    lower: End
    products: int
    converged: bool
    why: Why
    alphas: Tensor
    betas: Tensor
    krylov: Krylov
    restarts: int = 0

    @property
    def largest(self) -> Tensor:
        """``[k]`` descending, float64."""
        return self.upper.values

    @property
    def smallest(self) -> Tensor:
        """``[k]`` ascending, float64."""
        return self.lower.values

    @property
    def residual_largest(self) -> Tensor:
        """``[k]`` Ritz residuals of the largest eigenvalues."""
        return self.upper.residuals

    @property
    def residual_smallest(self) -> Tensor:
        """``[k]`` Ritz residuals of the smallest eigenvalues."""
        return self.lower.residuals

    @property
    def vectors_largest(self) -> Tensor:
        """``[k, P]`` Ritz vectors of the largest eigenvalues."""
        return self.upper.vectors

    @property
    def vectors_smallest(self) -> Tensor:
        """``[k, P]`` Ritz vectors of the smallest eigenvalues."""
        return self.lower.vectors

    def estimate_largest(self, i: int = 0) -> Estimate:
        """The ``i``-th largest eigenvalue; its ``residual`` is the certified error.

        Where the budget ran out: as far as it may be off, infinite where that is not known.
        """
        return self._estimate(self.upper, i)

    def estimate_smallest(self, i: int = 0) -> Estimate:
        """The ``i``-th smallest eigenvalue, as :meth:`estimate_largest`."""
        return self._estimate(self.lower, i)

    def _estimate(self, end: End, i: int) -> Estimate:
        history, why = end.history[:, i], self._why(end, i)
        unfinished = self._beyond(i) if why is Why.BUDGET else 0.0
        return Estimate(
            value=float(end.values[i]),
            residual=max(float(end.bounds[i]), unfinished),
            n=self.products,
            converged=end.converged[i],
            why=why,
            history=tuple(float(v) for v in history[~np.isnan(history)]),
        )

    def _beyond(self, i: int) -> float:
        """How far the eigenvalue may lie beyond its Ritz value while the run is not finished.

        A small residual says that an eigenvalue is near, not that it is the outermost.
        """
        krylov = self.krylov
        if i or not krylov.of_one_random_vector:
            return math.inf
        distance = unseen(len(krylov.values), krylov.op.dim)
        spread = float(krylov.values[-1] - krylov.values[0])
        return distance * spread if math.isfinite(distance) else math.inf

    def _why(self, end: End, i: int) -> Why:
        if end.converged[i]:
            return Why.BREAKDOWN if self.why is Why.BREAKDOWN else Why.RESIDUAL
        unfinished = self.why is Why.BUDGET and not end.settled[i]
        return Why.BUDGET if unfinished else Why.PRECISION
