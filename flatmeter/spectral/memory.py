"""How much memory a solver may take for its vectors."""

from __future__ import annotations

from pathlib import Path

import torch

from flatmeter.ranks.group import current
from flatmeter.spectral.operator import Operator

SHARE = 0.5


def spare_bytes(device: torch.device) -> int | None:
    """Half of the memory that is free on ``device``; ``None`` where that cannot be told."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return int(SHARE * 1024 * kilobytes[0]) if kilobytes else None


def vectors_that_fit(op: Operator, memory_bytes: int | None) -> int | None:
    """How many vectors of an operator's dimension and dtype a solver may hold.

    Args:
        op: the operator.
        memory_bytes: most bytes for them, half of what is free by default.

    Returns:
        ``None`` where that cannot be told.
    """
    room = spare_bytes(op.device) if memory_bytes is None else memory_bytes
    if room is None:
        return None
    # Every process has a solver that does the same, and those on one machine share its memory.
    ranks = current()
    if memory_bytes is None and op.device.type == "cpu":
        room //= ranks.neighbours
    return ranks.least(room // (op.dim * op.dtype.itemsize))
