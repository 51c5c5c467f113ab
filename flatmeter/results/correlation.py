"""Rank correlations of a measure with something else, with intervals by resampling checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000
FEWEST = 3
"""Checkpoints below which an order says nothing: two of them always agree or disagree."""

_BLOCK = 256


@dataclass(frozen=True)
class Coefficient:
    """A rank correlation.

    Args:
        value: between -1 and 1.
        low, high: ends of the interval, ``None`` where resampling gives none.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Correlation:
    """How far two columns have the same order.

    Args:
        n: number of pairs.
        spearman: Spearman's rho; ``None`` where it is undefined.
        kendall: Kendall's tau-b; ``None`` where it is undefined.
        reason: why one of them or its interval is missing.
    """

    n: int
    spearman: Coefficient | None = None
    kendall: Coefficient | None = None
    reason: str = ""


def correlate(
    x: Sequence[float], y: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> Correlation:
    """Spearman's rho and Kendall's tau-b of pairs (``scipy.stats.spearmanr``, ``kendalltau``).

    The intervals are the percentiles of both in :data:`RESAMPLES` samples of as many pairs, drawn
    with replacement (Efron 1979). They are undefined in a sample of one value alone, which is left
    out.

    Args:
        x: first of each pair, finite.
        y: second of each pair, finite.
        confidence: coverage of the intervals.
        seed: of the samples.
    """
    import numpy as np
    from scipy import stats

    n = len(x)
    if n < FEWEST:
        return Correlation(n, reason=f"{FEWEST} checkpoints or more are needed")
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    for values, which in ((a, "the measure"), (b, "the column")):
        if np.all(values == values[0]):
            return Correlation(n, reason=f"undefined: {which} has the same value everywhere")
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES)
    found, reasons = [], []
    for value, samples in (
        (stats.spearmanr(a, b).statistic, _spearman(a, b, counts)),
        (stats.kendalltau(a, b).statistic, _kendall(a, b, counts)),
    ):
        low, high, reason = _interval(samples, confidence)
        found.append(Coefficient(float(value), low, high))
        reasons.append(reason)
    spearman, kendall = found
    return Correlation(n, spearman, kendall, "; ".join(dict.fromkeys(filter(None, reasons))))


def _interval(samples: np.ndarray, confidence: float) -> tuple[float | None, float | None, str]:
    """The percentiles, or why there are none."""
    import numpy as np

    defined = samples[np.isfinite(samples)]
    if len(defined) < len(samples) / 2:
        return None, None, "no interval: most samples have one value alone"
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    if high - low < 1e-12:
        return None, None, "no interval: all samples have the same order"
    return float(low), float(high), ""


def _spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's rho of samples that hold each pair as often as ``counts`` says, ``[samples]``."""
    import numpy as np

    ranks = []
    for values in (x, y):
        distinct, place = np.unique(values, return_inverse=True)
        often = np.zeros((len(counts), len(distinct)))
        np.add.at(often.T, place, counts.T)
        # The mean rank of equal values, from the middle of the ranks.
        ranks.append((np.cumsum(often, axis=1) - 0.5 * (often + len(values)))[:, place])
    a, b = ranks
    return _ratio((counts * a * b).sum(1), (counts * a * a).sum(1), (counts * b * b).sum(1))


def _kendall(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of such samples: sums over pairs, each as often as both are drawn."""
    import numpy as np

    weights = counts.astype(float)
    both, of_x, of_y = (np.zeros(len(counts)) for _ in range(3))
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        a, b = (np.sign(v[rows, None] - v[None, :]) for v in (x, y))
        for total, signs in ((both, a * b), (of_x, a * a), (of_y, b * b)):
            total += ((weights @ signs.T) * weights[:, rows]).sum(1)
    return _ratio(both, of_x, of_y)


def _ratio(both: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    """Not a number where one of them does not vary."""
    import numpy as np

    product = of_x * of_y
    return np.where(product > 0.0, both / np.sqrt(np.where(product > 0.0, product, 1.0)), np.nan)
