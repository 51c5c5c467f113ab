"""Numbers that say what a density looks like, each with its error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flatmeter.estimate import Estimate, Why, student_quantile
from flatmeter.spectral.density import Density
from flatmeter.spectral.outliers import RESOLVED
from flatmeter.spectral.ritz import Floats
from flatmeter.spectral.skewness import cautious_error

BEYOND = 0.05
"""Part of the nodes' range beyond which there is no eigenvalue on either side."""

UNTOLD = 0.02
"""Largest error of the share below an edge, for the edge to be used in a histogram."""


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
        rows, residual = self._below(x)
        stderr = self._stderr(rows)
        met = self._half(stderr, len(rows)) + residual <= self.rtol
        return self._estimate(float(rows.mean()), stderr, residual, met)

    def share_above(self, x: float) -> Estimate:
        """Part of the eigenvalues at ``x`` or above."""
        return self.share_below(x).scaled(-1.0).shifted(1.0)

    def counts(self, edges: Floats) -> tuple[Floats, Floats, Floats]:
        """How many eigenvalues lie between neighbouring edges, and half of the interval's width.

        Args:
            edges: ``[e]`` ascending.

        Returns:
            The edges ``[b + 1]`` that can be told, without those closer to zero than one for which
            the share below is uncertain by more than ``UNTOLD``; counts and half-widths ``[b]``,
            which include what the Gauss rule leaves open.
        """
        found = [self._below(x) for x in edges]
        open_ = [self._half(self._stderr(r), len(r)) + gap > UNTOLD for r, gap in found]
        reach = np.abs(edges[open_]).max(initial=0.0)
        kept = [i for i, x in enumerate(edges) if abs(x) > reach]
        edges, found = edges[kept], [found[i] for i in kept]
        rows = np.diff(np.stack([rows for rows, _ in found]), axis=0)
        gaps = np.array([gap for _, gap in found])
        halves = np.array([self._half(self._stderr(row), len(row)) for row in rows])
        counts: Floats = self.density.dim * rows.mean(1)
        return edges, counts, self.density.dim * (halves + gaps[:-1] + gaps[1:])

    def _below(self, x: float) -> tuple[Floats, float]:
        """Part of the eigenvalues below ``x`` by each probe, and what the rule leaves open."""
        known, quadrature = self.density.outliers.values, self.density.quadrature
        counted = float((known < x).sum()) / self.density.dim
        if not self.rest:
            return np.array([counted]), 0.0
        nodes = quadrature.nodes
        last = np.array([np.searchsorted(row, x) for row in nodes])
        sums = np.cumsum(quadrature.weights, axis=1)
        sums = np.pad(np.pad(sums, ((0, 0), (0, 1)), mode="edge"), ((0, 0), (2, 0)))
        at, share = np.arange(len(last)), self.rest / self.density.dim
        rows, lower, upper = sums[at, last + 1], sums[at, last], sums[at, last + 2]
        # Lanczos finds the ends of a spectrum before all else: nothing lies far beyond the nodes.
        low, high = nodes.min(), nodes.max()
        if abs(x - (low + high) / 2) > (0.5 + BEYOND) * (high - low):
            return counted + share * rows, 0.0
        gap = max(upper.mean() - rows.mean(), rows.mean() - lower.mean())
        return counted + share * rows, share * float(gap)

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


def decades(radius: float, depth: int = 5) -> Floats:
    """Edges 1, 3, 10, 30, … in both directions from zero, out to ``radius``, for a histogram.

    Args:
        radius: that the outermost edges enclose.
        depth: powers of ten between the innermost and the outermost edge.
    """
    top = int(np.ceil(np.log10(radius))) if radius > 0 else 0
    sides = [m * 10.0**j for j in range(top - depth, top) for m in (1, 3)] + [10.0**top]
    return np.array([-e for e in reversed(sides)] + sides)
