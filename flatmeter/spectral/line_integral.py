"""The mean of ``|f|^p`` over a symmetric interval, for a smooth f that vanishes at its middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]

NEGLIGIBLE = 1e-3
"""Below this part of the largest |f| a change of sign is rounding, and too small to matter."""


HALVINGS = 7
"""Of the distance between two nodes, to find a root."""

MOST_ROOTS = 8
"""A function that changes sign more often than this is not smooth on the interval, or is noise."""


@dataclass(frozen=True)
class LineIntegral:
    """``(1/2δ) ∫ |f|^p`` over ``[−δ, δ]``.

    Args:
        value: by the finest rule.
        error: change of the value when the number of nodes was last doubled.
        nodes: of the finest rule, on each piece.
        converged: the error is within the tolerance.
        roots: where f changes sign besides 0.
        peak: largest ``|f|`` seen.
    """

    value: float
    error: float
    nodes: int
    converged: bool
    roots: tuple[float, ...]
    peak: float


@lru_cache
def half_rule(nodes: int, lower: float, upper: float) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights ``[nodes]`` on an interval."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    half = (upper - lower) / 2
    return lower + half * (x + 1), half * w


def mean_power(
    evaluate: Callable[[Sequence[float]], Floats],
    delta: float,
    p: float,
    *,
    rtol: float = 1e-3,
    nodes: int = 8,
    max_nodes: int = 64,
) -> LineIntegral:
    """Integrate both halves separately, doubling the nodes until the value settles.

    ``|f|^p`` has a kink at 0 and wherever f changes sign; the interval is split there, because one
    rule across a kink converges slowly.

    Args:
        evaluate: f at several places, ``[k]``.
        delta: half the interval's length.
        p: power.
        rtol: relative change of the value at which the doubling stops.
        nodes: per piece, to begin with.
        max_nodes: per piece, at most.
    """
    pieces = [(-delta, 0.0), (0.0, delta)]
    roots: tuple[float, ...] = ()
    value, error, peak = np.nan, np.inf, 0.0
    while True:
        samples = [evaluate(list(half_rule(nodes, *piece)[0])) for piece in pieces]
        peak = max(peak, *(float(np.abs(s).max()) for s in samples))
        found = list(
            islice(_roots(evaluate, pieces, samples, nodes, peak), MOST_ROOTS - len(roots))
        )
        if found:
            roots = (*roots, *found)
            pieces = _split(pieces, found)
            continue
        previous, value = value, 0.0
        for piece, f in zip(pieces, samples, strict=True):
            value += float(half_rule(nodes, *piece)[1] @ np.abs(f) ** p) / (2 * delta)
        error = abs(value - previous) if np.isfinite(previous) else np.inf
        converged = error <= rtol * value
        if converged or 2 * nodes > max_nodes:
            return LineIntegral(value, error, nodes, bool(converged), tuple(sorted(roots)), peak)
        nodes *= 2


def _roots(
    evaluate: Callable[[Sequence[float]], Floats],
    pieces: list[Interval],
    samples: list[Floats],
    nodes: int,
    peak: float,
) -> Iterator[float]:
    """Changes of sign between neighbouring nodes of a piece.

    The place need not be sharp: near a root |f| is small, so the error enters squared.
    """
    for piece, f in zip(pieces, samples, strict=True):
        t = half_rule(nodes, *piece)[0]
        for i, j in pairwise(np.flatnonzero(np.abs(f) > NEGLIGIBLE * peak)):
            if f[i] * f[j] < 0:
                yield _bisected(evaluate, (t[i], t[j]), float(f[i]))


def _bisected(
    evaluate: Callable[[Sequence[float]], Floats], between: Interval, at_first: float
) -> float:
    """A root, halving; unlike a library's it takes a noisy f, whose signs need not repeat."""
    first, last = map(float, between)
    for _ in range(HALVINGS):
        middle = (first + last) / 2
        if float(evaluate([middle])[0]) * at_first > 0:
            first = middle
        else:
            last = middle
    return (first + last) / 2


def _split(pieces: list[Interval], at: list[float]) -> list[Interval]:
    ends = sorted({end for piece in pieces for end in piece} | set(at))
    return list(pairwise(ends))
