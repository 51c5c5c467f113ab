"""The standard error of a mean of skewed values."""

from __future__ import annotations

import numpy as np

from flatmeter.spectral.ritz import Floats

WIDENING = 2.5
"""How many times the term of the Edgeworth expansion is added, since few values show less skewness
than they have. Simulated for 16 to 400 values of weighted sums of squares of normal numbers."""

NORMAL_QUANTILE = 1.96
"""At which the expansion is taken: of a 95 % interval."""


def cautious_error(table: Floats) -> Floats:
    """Standard error of each column's mean, widened where the values are skewed.

    Forms ``v^T A v`` with one eigenvalue far above the others are distributed like the square of a
    normal number: a mean that came out small has a small spread, and 95 % intervals of Student's
    kind cover 88 % at 16 values and 93 % at 80. To first order the missing width is
    ``(q⁴ + 2 q² − 3) γ² / (18 n)`` of the width, γ being the skewness (Hall 1992, The Bootstrap and
    Edgeworth Expansion, 2.3). With it they cover 92 % to 97 % at 16 values and 94 % to 97 % from
    24 on, and as before where there is no skewness.

    Args:
        table: ``[n, columns]`` independent values, n of at least 2.

    Returns:
        ``[columns]``.
    """
    n = len(table)
    centred = table - table.mean(0)
    squares = np.square(centred).mean(0)
    plain: Floats = np.sqrt(squares / (n - 1))
    if n < 3:
        return plain
    size = np.where(squares > 0, squares, 1.0)
    skewness = (centred / np.sqrt(size)) ** 3
    # Both corrections for few values: the estimate's bias, and what normal numbers show by chance.
    square = skewness.mean(0) ** 2 * n * (n - 1) / (n - 2) ** 2 - 6 / n
    term = (NORMAL_QUANTILE**4 + 2 * NORMAL_QUANTILE**2 - 3) / (18 * n)
    widened: Floats = plain * (1 + WIDENING * term * np.maximum(square, 0.0))
    return widened
