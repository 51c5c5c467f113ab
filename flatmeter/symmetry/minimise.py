"""The smallest weighted sum over a group of rescalings: a convex problem, solved to its optimum.

``min_u Σ_j w_j exp(−2 (E u)_j)`` with ``w ≥ 0`` is geometric programming in one posynomial. Where a
direction lowers some terms for ever and raises none, these terms have infimum zero: they are found
by a linear programme and left out, and what remains has a minimum that is attained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, diags_array, eye_array, hstack, issparse, sparray, spmatrix
from scipy.sparse.linalg import cg

Matrix: TypeAlias = np.ndarray | spmatrix | sparray

#: Up to this many unknowns Newton's equations are solved directly.
DIRECT_SIZE = 1500
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class Minimum:
    """The infimum of the weighted sum.

    Args:
        value: the infimum.
        log_scales: ``a = E u`` at the minimiser of the terms that are kept, ``[n]``.
        attained: there is a minimum and not only an infimum.
        dropped: positions of the terms with a weight that fall to zero along a direction without
            end, such as the partner of a dead layer.
        iterations: Newton steps.
        gradient_norm: largest component of the relative gradient ``Eᵀp``, ``p_j`` a term's share
            of the sum: the certificate of the optimum.
        coordinates: the minimiser ``u [d]``.
    """

    value: float
    log_scales: np.ndarray
    attained: bool
    dropped: tuple[int, ...]
    iterations: int
    gradient_norm: float
    coordinates: np.ndarray


def minimise(weights: np.ndarray, basis: Matrix, *, tolerance: float = 1e-13) -> Minimum:
    """Minimise ``Σ_j weights_j exp(−2 (E u)_j)`` over u by damped Newton steps.

    Args:
        weights: ``[n]``, not negative.
        basis: E, ``[n, d]``, dense or sparse.
        tolerance: on the relative gradient.

    Returns:
        The minimum with its certificate.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if np.any(weights < 0) or not np.all(np.isfinite(weights)):
        raise ValueError("weights must be finite and not negative")
    E = csr_matrix(basis)
    live = weights > 0
    falling = np.zeros(len(weights), dtype=bool)
    falling[live] = _falling(E[live])
    kept = live & ~falling
    u, iterations, gradient = _newton(weights[kept], E[kept], tolerance)
    a = E @ u
    return Minimum(
        value=float(np.sum(weights[kept] * np.exp(-2.0 * a[kept]))),
        log_scales=a,
        attained=not falling.any(),
        dropped=tuple(np.flatnonzero(falling).tolist()),
        iterations=iterations,
        gradient_norm=gradient,
        coordinates=u,
    )


def _falling(E: csr_matrix) -> np.ndarray:
    """Terms that some direction lowers for ever while raising none.

    The directions with ``E u ≥ 0`` form a convex cone, so one programme that maximises how many
    components are positive (each counted up to 1) finds all of them at once.
    """
    n, d = E.shape
    if n == 0 or d == 0:
        return np.zeros(n, dtype=bool)
    cost = np.concatenate([np.zeros(d), -np.ones(n)])
    constraint = hstack([-E, eye_array(n)], format="csr")
    bounds = [(None, None)] * d + [(0.0, 1.0)] * n
    found = linprog(cost, A_ub=constraint, b_ub=np.zeros(n), bounds=bounds, method="highs")
    if not found.success:
        raise ArithmeticError(f"the linear programme failed: {found.message}")
    falling: np.ndarray = found.x[d:] > 0.5
    return falling


def _newton(w: np.ndarray, E: csr_matrix, tolerance: float) -> tuple[np.ndarray, int, float]:
    """Coordinates of the minimum, steps taken, and the relative gradient there."""
    d = E.shape[1]
    u = np.zeros(d)
    if len(w) == 0 or d == 0:
        return u, 0, 0.0
    log_w = np.log(w)
    value, p = _log_sum(log_w - 2.0 * (E @ u))
    best = np.inf
    for iteration in range(MAX_ITERATIONS):
        gradient = E.T @ p
        norm = float(np.abs(gradient).max())
        # Below about 1e-12 rounding decides: stop when a step no longer helps.
        if norm <= tolerance or (norm < 1e-12 and norm >= best):
            return u, iteration, norm
        best = min(best, norm)
        u, value, p, moved = _step(log_w, E, u, value, p, gradient)
        if not moved:
            return u, iteration + 1, float(np.abs(E.T @ p).max())
    return u, MAX_ITERATIONS, float(np.abs(E.T @ p).max())


def _step(
    log_w: np.ndarray,
    E: csr_matrix,
    u: np.ndarray,
    value: float,
    p: np.ndarray,
    gradient: np.ndarray,
) -> tuple[np.ndarray, float, np.ndarray, bool]:
    """One damped step down the logarithm of the sum; whether it moved."""
    direction = _solve(E, p, gradient)
    slope = 2.0 * float(gradient @ direction)
    length = 1.0
    while length > 1e-10:
        trial = u + length * direction
        new_value, new_p = _log_sum(log_w - 2.0 * (E @ trial))
        if new_value <= value - 0.1 * length * slope + 1e-15 * max(1.0, abs(value)):
            return trial, new_value, new_p, True
        length *= 0.5
    return u, value, p, False


def _solve(E: csr_matrix, p: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Newton's direction of the sum: ``½ (Eᵀ diag(p) E)⁺ Eᵀp``."""
    hessian = E.T @ diags_array(p) @ E
    if E.shape[1] <= DIRECT_SIZE:
        dense = hessian.toarray() if issparse(hessian) else np.asarray(hessian)
        scale = 1.0 / np.sqrt(np.maximum(dense.diagonal(), 1e-300))
        scaled = dense * scale[:, None] * scale[None, :]
        solution = np.linalg.lstsq(scaled, gradient * scale, rcond=1e-13)[0]
        direction: np.ndarray = 0.5 * solution * scale
        return direction
    diagonal = np.maximum(hessian.diagonal(), 1e-300)
    solution, _ = cg(hessian, gradient, rtol=1e-10, maxiter=2000, M=diags_array(1.0 / diagonal))
    return 0.5 * np.asarray(solution)


def _log_sum(exponents: np.ndarray) -> tuple[float, np.ndarray]:
    """Logarithm of the sum of exponentials, and each term's share."""
    top = float(exponents.max())
    terms = np.exp(exponents - top)
    total = float(terms.sum())
    return top + float(np.log(total)), terms / total
