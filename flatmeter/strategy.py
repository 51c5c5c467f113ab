"""The names of the ways to compute curvature products.

Plain text without PyTorch, so that ``--help`` stays quick.
"""

from __future__ import annotations

from typing import Literal

Mode = Literal["reverse", "forward"]
Strategy = Literal["reverse", "reverse-batched", "forward", "forward-batched"]

STRATEGIES: tuple[Strategy, ...] = ("reverse", "reverse-batched", "forward", "forward-batched")


def mode_of(strategy: Strategy) -> Mode:
    """How the gradient is differentiated once more."""
    return "forward" if strategy.startswith("forward") else "reverse"


def is_batched(strategy: Strategy) -> bool:
    """The strategy takes several vectors at once."""
    return strategy.endswith("-batched")
