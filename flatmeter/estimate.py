"""The number that every estimator returns: a value with its uncertainty and how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum


def student_quantile(n: int, confidence: float) -> float:
    """Half-width, in standard errors, of the two-sided interval for the mean of ``n`` probes."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.5 + confidence / 2)) if n > 1 else math.inf


class Why(Enum):
    """How an estimate ended; the value is the text that a person reads."""

    EXACT = "exact"
    INTERVAL = "the confidence interval is within the tolerance"
    RESIDUAL = "the residual is within the tolerance"
    LOWER_BOUND = "a lower bound: the best of several ascents"
    BUDGET = (
        "the budget ran out before the tolerance was met; raise --max-products, or the measure's "
        "max_products, max_probes or steps"
    )
    SPREAD = "the starts disagree by more than the tolerance"
    PRECISION = "rounding in this dtype keeps it from the tolerance; use float64"
    BREAKDOWN = "the Krylov space is exhausted: the eigenvalues are exact"


@dataclass(frozen=True)
class Estimate:
    """A value, its uncertainty, and how it ended.

    Args:
        value: the number.
        stderr: standard error of a stochastic estimate; 0 for a deterministic value.
        exact: no sampling and no iteration error besides rounding.
        residual: bound on a deterministic error (Ritz residual, quadrature error), else None.
        n: number of probes, iterations or starts behind the value.
        converged: the tolerance asked for was met.
        why: how it ended.
        history: the value after each step, oldest first (may be thinned).
        data_stderr: standard error from measuring on a random sample of the data, the weights held
            fixed; 0 where all data were measured, ``None`` where it is unknown. No part of the
            interval.
    """

    value: float
    stderr: float = 0.0
    exact: bool = False
    residual: float | None = None
    n: int = 1
    converged: bool = True
    why: Why = Why.EXACT
    history: tuple[float, ...] = ()
    data_stderr: float | None = None

    @classmethod
    def of_exact(cls, value: float) -> Estimate:
        """A deterministic value, exact up to rounding."""
        return cls(value=float(value), exact=True, why=Why.EXACT)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided interval: Student's quantile (``n - 1``) times ``stderr``, plus ``residual``.

        Args:
            confidence: coverage in (0, 1).

        Returns:
            Lower and upper end; infinite where one probe leaves the error unknown.
        """
        half = self.residual or 0.0
        if self.stderr > 0.0:
            half += student_quantile(self.n, confidence) * self.stderr
        return self.value - half, self.value + half

    def scaled(self, factor: float) -> Estimate:
        """The same estimate of ``factor`` times the quantity."""
        return Estimate(
            value=self.value * factor,
            stderr=self.stderr * abs(factor),
            exact=self.exact,
            residual=None if self.residual is None else self.residual * abs(factor),
            n=self.n,
            converged=self.converged,
            why=self.why,
            history=tuple(h * factor for h in self.history),
            data_stderr=None if self.data_stderr is None else self.data_stderr * abs(factor),
        )

    def of_sample(self, data_stderr: float) -> Estimate:
        """The same estimate with the standard error from measuring on a sample of the data."""
        return replace(self, data_stderr=float(data_stderr))

    def shifted(self, by: float) -> Estimate:
        """The same estimate of the quantity plus a known number."""
        return replace(self, value=self.value + by, history=tuple(h + by for h in self.history))
