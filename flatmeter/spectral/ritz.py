"""The small projected eigenproblem of Lanczos, and what its residuals certify."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, eigh_tridiagonal

Floats = NDArray[np.float64]
Criterion = Literal["error", "residual"]

RESIDUAL_CAP = 1e-2
"""Largest relative residual at which ``residual²/gap`` is trusted to be in its asymptotic range."""

CLUSTER_CAP = 10.0
"""And largest residual in tolerances: the gap overlooks a cluster tighter than the residual."""

RISK = 0.01
"""Probability that a random start hides more of an outermost eigenvalue than is said."""

NEAR_ZERO = 0.1
"""An eigenvalue below this part of the spectral radius is judged relative to that part of it."""


@dataclass
class Projected:
    """The matrix ``V A V^T`` of an orthonormal basis: tridiagonal, after a restart an arrow first.

    Args:
        alphas: the diagonal.
        betas: ``betas[j]`` couples vectors j and j + 1; the last one is the remainder's norm.
        arrow: couplings of the Ritz vectors kept by the last restart with the vector after them.
    """

    alphas: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    arrow: Floats = field(default_factory=lambda: np.zeros(0))

    def grow(self, alpha: float, beta: float) -> tuple[Floats, Floats]:
        """Add a row; eigenvalues ``[m]`` ascending and eigenvectors ``[m, m]`` in columns."""
        self.alphas.append(alpha)
        self.betas.append(beta)
        diagonal, off = np.array(self.alphas), np.array(self.betas[:-1])
        if not self.arrow.size:
            values, vectors = eigh_tridiagonal(diagonal, off)
        else:
            kept = self.arrow.size
            dense = np.diag(diagonal)
            dense[kept, :kept] = dense[:kept, kept] = self.arrow
            tail = np.arange(kept, len(diagonal) - 1)
            dense[tail, tail + 1] = dense[tail + 1, tail] = off[kept:]
            values, vectors = eigh(dense)
        return values, vectors

    def restart(self, values: Floats, last_weights: Floats) -> None:
        """Become the matrix of kept Ritz vectors.

        Args:
            values: ``[r]`` their Ritz values.
            last_weights: ``[r]`` their last components, by which the next vector couples to them.
        """
        self.arrow = self.betas[-1] * last_weights
        self.alphas = [float(v) for v in values]
        self.betas = [0.0] * (len(values) - 1) + [self.betas[-1]]


@dataclass(frozen=True)
class Certificate:
    """What the residuals say about some Ritz values; all arrays ``[k]``.

    Args:
        values: Ritz values.
        residuals: their residual norms.
        bounds: of their errors.
        settled: within the tolerance, or as close as rounding lets one come.
        converged: within the tolerance.
    """

    values: Floats
    residuals: Floats
    bounds: Floats
    settled: NDArray[np.bool_]
    converged: NDArray[np.bool_]


def attainable(rtol: float, noise: float) -> float:
    """A tolerance that products this noisy allow for every eigenvalue, near zero too.

    For whoever asked for none in particular; ``RESIDUAL_CAP`` at most.

    Args:
        rtol: the tolerance where rounding allows it.
        noise: relative error of one product.
    """
    return min(RESIDUAL_CAP, max(rtol, noise / NEAR_ZERO))


def unseen(steps: int, dim: int) -> float:
    """How far an outermost eigenvalue lies beyond its Ritz value, in spreads of the Ritz values.

    After some steps from a random vector; more with a probability of ``RISK`` only. Kuczyński and
    Woźniakowski (1992), theorem 4.2: in spreads of the spectrum it is ε with
    ``1.648 √P exp(-√ε (2 m - 1)) = RISK``, and both ends together may lack twice that.

    Args:
        steps: m.
        dim: P.

    Returns:
        The distance; infinite where the theorem says nothing yet.
    """
    if steps >= dim:
        return 0.0
    missed = (math.log(1.648 * math.sqrt(dim) / RISK) / (2 * steps - 1)) ** 2
    return missed / (1 - 2 * missed) if missed < 0.5 and steps >= 4 else math.inf


def certify(
    values: Floats,
    residuals: Floats,
    wanted: NDArray[np.intp],
    *,
    rtol: float,
    criterion: Criterion,
    noise: float,
) -> Certificate:
    """Bound the errors of the wanted Ritz values and decide which are within the tolerance.

    A Ritz value with residual r is off by at most r, and by at most ``r²/gap`` where the rest of
    the spectrum keeps a distance ``gap`` (Kato-Temple). The distance is read off the other Ritz
    values, each widened by its own residual; where the intervals overlap, r alone counts. To this
    is added what rounding in the products may contribute, ``noise`` times the spectral radius.
    The gap is an observation: several eigenvalues closer together than r look like one until the
    run resolves them, and the value is then one of theirs to within about r. Hence the two caps.

    Args:
        values: ``[m]`` all Ritz values, ascending.
        residuals: ``[m]`` their residual norms.
        wanted: ``[k]`` indices into them.
        rtol: tolerance of the error, relative to ``max(|θ|, NEAR_ZERO · radius)``.
        criterion: ``"error"``: the bound is within the tolerance, and the residual, relative to
            the same, below ``RESIDUAL_CAP`` and ``CLUSTER_CAP · rtol``; ``"residual"``: besides,
            the residual is below rtol times the spectral radius.
        noise: relative error of one product; a tolerance below it cannot be met, and a value is
            then settled at that error.

    Returns:
        The certificate of the wanted values, in the order of ``wanted``.
    """
    radius = float(np.abs(values).max())
    theta, r = values[wanted], residuals[wanted]
    gap = _gaps(values, residuals, wanted)
    error = np.where(gap > 0, np.minimum(r, r * r / np.where(gap > 0, gap, 1.0)), r)
    scale = np.maximum(np.abs(theta), NEAR_ZERO * radius)
    cap = min(RESIDUAL_CAP, CLUSTER_CAP * rtol) * scale
    if criterion == "residual":
        cap = np.minimum(cap, rtol * radius)
    rounding = noise * radius
    settled = (error <= np.maximum(rtol * scale, rounding)) & (r <= np.maximum(cap, rounding))
    return Certificate(theta, r, error + rounding, settled, settled & (rounding <= rtol * scale))


def _gaps(values: Floats, residuals: Floats, wanted: NDArray[np.intp]) -> Floats:
    """Distance of each wanted value to the interval of the nearest other one, 0 if unknown."""
    if len(values) == 1:
        return np.zeros(1)
    distance = np.abs(values[None, :] - values[wanted][:, None]) - residuals[None, :]
    distance[np.arange(len(wanted)), wanted] = np.inf
    gap: Floats = np.maximum(distance.min(axis=1), 0.0)
    return gap
