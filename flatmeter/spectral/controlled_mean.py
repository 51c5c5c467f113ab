"""The mean of random values, made sharper by a control whose expectation is known to be zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from flatmeter.errors import NonFinite
from flatmeter.estimate import Estimate, Why, student_quantile
from flatmeter.spectral.trace import CAUTION

MIN_DRAWS = 16
"""Fewest draws from which a regression and a spread are estimated."""


def controlled(values: Sequence[float], controls: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the residuals of a regression on the control.

    Args:
        values: ``[n]`` independent draws, n > 2.
        controls: ``[n]`` a quantity of the same draws, of expectation zero.

    Returns:
        ``E y − β E c`` with the least-squares β, and its standard error.
    """
    y, c = np.asarray(values), np.asarray(controls)
    centred = c - c.mean()
    power = float(centred @ centred)
    slope = float(centred @ y) / power if power > 0 else 0.0
    residuals = y - slope * c
    mean = float(residuals.mean())
    # The control's own mean is uncertain by as much as the slope is: the second term.
    spread = float(np.sum((residuals - mean) ** 2)) / (len(y) - 2)
    leverage = 1 / len(y) + (float(c.mean()) ** 2 / power if power > 0 else 0.0)
    return mean, float(np.sqrt(spread * leverage))


def controlled_mean(
    draw: Callable[[int], tuple[float, float]],
    *,
    rtol: float,
    confidence: float,
    max_draws: int,
    progress: Callable[[str], None],
) -> tuple[Estimate, NDArray[np.float64]]:
    """Draw until the interval's half-width is within the tolerance.

    Args:
        draw: value and control of the i-th draw.
        rtol: half-width asked for, relative to the mean.
        confidence: coverage of the interval.
        max_draws: most draws, at least 3.
        progress: told in words after each draw; may raise to stop the run.

    Returns:
        The estimate, and ``[n, 2]`` values and controls.

    Raises:
        NonFinite: a value is infinite or not a number.
    """
    table: list[tuple[float, float]] = []
    history: list[float] = []
    why = Why.BUDGET
    while len(table) < max_draws:
        table.append(draw(len(table)))
        if not np.isfinite(table[-1]).all():
            raise NonFinite(f"draw {len(table)} is infinite or not a number")
        n = len(table)
        if n < 3:
            continue
        mean, stderr = controlled(*zip(*table, strict=True))
        history.append(mean)
        progress(f"mean: {n} draws, {mean:.6g}")
        half = student_quantile(n - 1, confidence) * stderr * (1 + CAUTION / n)
        if n >= MIN_DRAWS and half <= rtol * abs(mean):
            why = Why.INTERVAL
            break
    estimate = Estimate(
        value=mean,
        stderr=stderr,
        n=len(table),
        converged=why is Why.INTERVAL,
        why=why,
        history=tuple(history),
    )
    return estimate, np.array(table)
