"""When the best of several ascents may be relied on as a maximum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from flatmeter.estimate import Why

FLOOR = 1e-5
"""Part of the loss below which, in float32 and coarser types, its changes are mostly rounding."""


def hidden_by_rounding(change: float, loss: float, dtype: torch.dtype) -> bool:
    """The largest change of the loss seen is too small for the dtype."""
    return dtype != torch.float64 and abs(change) < FLOOR * abs(loss)


def spread(values: Sequence[float]) -> float:
    """Relative distance of the two largest values; infinite if nothing vouches for a single one."""
    if len(values) < 2:
        return math.inf
    best, second = sorted(values, reverse=True)[:2]
    return (best - second) / best if best > 0 else 0.0


def verdict(*, hidden: bool, settled: bool, apart: float, agreement: float) -> Why:
    """``LOWER_BOUND`` if nothing speaks against the best ascent, else what does.

    Args:
        hidden: rounding hides the value.
        settled: the best ascent, and whatever was computed from it, met its tolerance.
        apart: relative distance of the two best starts.
        agreement: most that it may be.
    """
    if hidden:
        return Why.PRECISION
    if not settled:
        return Why.BUDGET
    return Why.LOWER_BOUND if apart <= agreement else Why.SPREAD
