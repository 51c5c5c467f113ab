"""Numbers that say what a density looks like, each with its error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flatmeter.estimate import Estimate, Why, student_quantile
from flatmeter.spectral.density import Density
from flatmeter.spectral.outliers import RESOLVED
from flatmeter.spectral.ritz import Floats
from flatmeter.spectral.skewness import cautious_error


class Summary:
    """Functions of a spectrum from its outliers and from the Gauss rules of the others.

    Args:
        density: of the eigenvalues.
        rtol: half-width asked for: relative to a norm or a rank, of shares absolute.
        confidence: coverage of the intervals.
        noise: relative rounding error of a product.
    """

    def __init__(self, density: Density, *, rtol: float, confidence: float, noise: float) -> None:
        self.density, self.rtol, self.confidence = density, rtol, confidence
        self.error = noise + RESOLVED**2
        self.rest = density.dim - len(density.outliers.values)

    @property
    def radius(self) -> float:
        """Largest magnitude of an eigenvalue."""
        return float(np.abs(self.density.atoms()[0]).max())

    def frobenius(self) -> Estimate:
        """``‖A‖_F``, the root of the sum of the squares of the eigenvalues."""
        rows = self._rows(np.square)
        value = float(np.sqrt(max(rows.mean(), 0.0)))
        stderr = self._stderr(rows) / (2 * value) if value else 0.0
        return self._relative(value, stderr)

    def effective_rank(self) -> Estimate:
        """``(Tr A)² / ‖A‖_F²``: q for q equal eigenvalues beside zeros (participation ratio)."""
        traces, squares = self._rows(lambda x: x), self._rows(np.square)
        trace, square = float(traces.mean()), float(squares.mean())
        if square <= 0:
            return self._relative(0.0, 0.0)
        slope = trace / square
        stderr = self._stderr(2 * slope * traces - slope**2 * squares)
        return self._relative(slope * trace, stderr)

    def share_below(self, x: float) -> Estimate:
        """Part of the eigenvalues below ``x``.

        Its ``residual`` is what the Gauss rule leaves open: the measure up to a node lies between
        the weights up to and without it (Chebyshev, Markov and Stieltjes; Szegö 1939, 3.41).
        """
        known, quadrature = self.density.outliers.values, self.density.quadrature
        rows, gaps = np.zeros(max(len(quadrature.nodes), 1)), np.zeros(1)
        if self.rest:
            last = np.array([np.searchsorted(nodes, x) for nodes in quadrature.nodes])
            sums = np.pad(np.cumsum(quadrature.weights, axis=1), ((0, 0), (2, 1)), mode="edge")
            sums[:, :2] = 0.0
            at = np.arange(len(last))
            rows, lower, upper = sums[at, last + 1], sums[at, last], sums[at, last + 2]
            gaps = np.maximum(upper.mean() - rows.mean(), rows.mean() - lower.mean())
        share = self.rest / self.density.dim
        value = share * float(rows.mean()) + float((known < x).mean() if len(known) else 0.0) * (
            1 - share
        )
        stderr, residual = share * self._stderr(rows), share * float(np.max(gaps))
        half = self._half(stderr, len(rows)) + residual
        return self._estimate(value, stderr, residual, half <= self.rtol)

    def share_above(self, x: float) -> Estimate:
        """Part of the eigenvalues at ``x`` or above."""
        return self.share_below(x).scaled(-1.0).shifted(1.0)

    def _rows(self, f: Callable[[Floats], Floats]) -> Floats:
        """``Σ_i f(λ_i)`` as each probe has it, ``[n]``."""
        quadrature = self.density.quadrature
        known = float(f(self.density.outliers.values).sum())
        if not self.rest:
            return np.array([known])
        rows: Floats = known + self.rest * (quadrature.weights * f(quadrature.nodes)).sum(1)
        return rows

    def _stderr(self, rows: Floats) -> float:
        return float(cautious_error(rows[:, None])[0]) if len(rows) > 1 else 0.0

    def _half(self, stderr: float, n: int) -> float:
        return student_quantile(n, self.confidence) * stderr if stderr else 0.0

    def _relative(self, value: float, stderr: float) -> Estimate:
        residual = self.error * abs(value)
        half = self._half(stderr, len(self.density.quadrature.nodes)) + residual
        return self._estimate(value, stderr, residual, half <= self.rtol * abs(value))

    def _estimate(self, value: float, stderr: float, residual: float, met: bool) -> Estimate:
        return Estimate(
            value=value,
            stderr=stderr,
            residual=residual,
            n=max(len(self.density.quadrature.nodes), 1),
            converged=bool(met),
            why=Why.INTERVAL if met else Why.BUDGET,
        )
