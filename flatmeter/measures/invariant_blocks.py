"""The scale-invariant blocks that a measure may stand on: found in the graph, then confirmed."""

from __future__ import annotations

import torch

from flatmeter.curvature.euler import euler_ratios, idle_tensors, with_scaled_eps
from flatmeter.errors import NotApplicable
from flatmeter.measures.context import Context
from flatmeter.measures.spheres import movable
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.symmetry.blocks import Block, scale_invariant_blocks

EULER_TOLERANCE = 1e-3
"""Invariant blocks pass at 1e-5 in float32 once ε is out of the way, others fail at 0.01 to 1."""


def invariant_blocks(context: Context, title: str) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """Smallest sets of parameters whose common scale changes nothing, confirmed by Euler's test.

    Those that cannot move are left out, see :func:`flatmeter.measures.spheres.movable`.

    Args:
        context: of the measure.
        title: of the measure, for the message.

    Returns:
        The blocks, and what a reader should know of those left out.

    Raises:
        NotApplicable: there is none.
    """
    if context.bn == "eval":
        raise NotApplicable(
            f"{title} needs weights whose scale does not matter, and batch-norm with stored "
            "statistics lets it matter",
            hint="use --bn batch",
        )
    risk = context.risk
    group = context.group()
    found = movable(scale_invariant_blocks(group, risk.space), risk.theta)
    if found:
        found = _seen(found, risk)
    if not found and group.notes:
        raise NotApplicable(
            f"{title} needs weights whose scale does not matter, and none was both found in the "
            f"graph and confirmed by evaluation: {group.notes[0]}"
        )
    if not found:
        raise NotApplicable(
            f"{title} needs weights whose scale does not matter, and no weight of this network is "
            "followed by a normalisation that would make it so"
        )
    ratios = euler_ratios(
        with_scaled_eps(risk), [block.indices for block in found], seed=context.seed
    )
    kept = tuple(b for b, r in zip(found, ratios, strict=True) if float(r) <= EULER_TOLERANCE)
    if not kept:
        raise NotApplicable(
            f"{title} found {len(found)} blocks that the graph says are scale-invariant, and "
            f"evaluation confirms none: the network changes by {float(ratios.min()):.1g} or more"
        )
    if len(kept) == len(found):
        return kept, group.notes
    left = next(b.name for b, r in zip(found, ratios, strict=True) if float(r) > EULER_TOLERANCE)
    return kept, (
        *group.notes,
        f"{len(found) - len(kept)} of {len(found)} blocks are left out because evaluation does "
        f"not confirm that their scale does not matter, the first {left}",
    )


def _seen(blocks: tuple[Block, ...], risk: EmpiricalRisk) -> tuple[Block, ...]:
    """Without those in tensors that the outputs do not depend on at all."""
    idle = idle_tensors(risk)
    sizes = zip(risk.space.names, risk.space.sizes, strict=True)
    used = torch.cat([torch.full((size,), name not in idle) for name, size in sizes])
    return tuple(block for block in blocks if bool(used[block.indices].any()))
