"""How many vectors a solver may hold."""

from __future__ import annotations

from flatmeter.free_memory import free_memory
from flatmeter.ranks.group import current
from flatmeter.spectral.operator import Operator

SHARE = 0.5
"""Part of the free memory that a solver's vectors may take."""


def vectors_that_fit(op: Operator, memory_bytes: int | None) -> int:
    """How many vectors of an operator's dimension and dtype a solver may hold.

    Args:
        op: the operator.
        memory_bytes: most bytes for them, half of what is free by default.
    """
    # Every process has a solver that does the same, and those on one machine share its memory.
    ranks = current()
    room = memory_bytes
    if room is None:
        sharing = ranks.neighbours if op.device.type == "cpu" else 1
        room = int(SHARE * free_memory(op.device)) // sharing
    return ranks.least(room // (op.dim * op.dtype.itemsize))
