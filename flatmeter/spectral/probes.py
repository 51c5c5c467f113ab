"""Random probe vectors: each depends on the seed, a purpose and its index only."""

from __future__ import annotations

import torch
from torch import Tensor

from flatmeter.randomness import derived_generator
from flatmeter.spectral.operator import Operator


def rademacher(op: Operator, first: int, last: int, *, seed: int, purpose: str) -> Tensor:
    """Probes ``first`` to ``last - 1`` of independent random signs, for ``op``'s dtype and device.

    Args:
        op: what they are for.
        first: index of the first probe.
        last: index after the last one.
        seed: of the run.
        purpose: keeps runs with the same seed apart.

    Returns:
        ``[last - first, P]`` of ±1.
    """
    signs = torch.empty(last - first, op.dim, dtype=torch.int8)
    for row, index in enumerate(range(first, last)):
        torch.randint(
            0, 2, (op.dim,), generator=derived_generator(seed, purpose, index), out=signs[row]
        )
    return (2 * signs - 1).to(dtype=op.dtype, device=op.device)
