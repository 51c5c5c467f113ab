"""Sums over products, refused where they are infinite or not a number."""

from __future__ import annotations

import numpy as np

from flatmeter.errors import NonFinite
from flatmeter.spectral.ritz import Floats


def finite(sums: Floats) -> Floats:
    """``sums`` as they are.

    Raises:
        NonFinite: one is infinite or not a number.
    """
    if not np.isfinite(sums).all():
        raise NonFinite(
            "a curvature product is infinite or not a number",
            hint="Try --dtype float64, or look for weights or data that overflow.",
        )
    return sums
