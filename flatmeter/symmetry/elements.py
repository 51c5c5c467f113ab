"""Elements of the group that a network may be moved by: random ones, and the one that balances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flatmeter.randomness import derived_generator
from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.balance import balance
from flatmeter.symmetry.group import SymmetryGroup
from flatmeter.symmetry.minimise import minimise

MINIMAL = 1e-9
"""Largest relative gradient of a sum of squares that passes for its minimum's."""


@dataclass(frozen=True)
class Balanced:
    """The element that makes the sum of squared weights smallest.

    Args:
        factors: what every entry of the flat vector is multiplied by, ``[P]`` float64.
        before, after: the sum of squares at the network and at its infimum over the group.
        slope: largest change of the sum, as a part of it, by a unit of any log-scale: zero at the
            minimum, which makes it the certificate.
        attained: there is a minimum and not only an infimum.
        falling: names of tensors, or of tensors with such entries, whose squares some rescalings
            bring to zero; these have no minimum to be moved to and count nothing in ``after``.
    """

    factors: Tensor
    before: float
    after: float
    slope: float
    attained: bool
    falling: tuple[str, ...]

    @property
    def certified(self) -> bool:
        """The optimality condition holds to rounding."""
        return self.slope <= MINIMAL


def random_factors(
    group: SymmetryGroup, space: ParameterSpace, seed: int, *, size: int, channels: bool
) -> Tensor:
    """What every entry is multiplied by under a random element: powers of two, ``[P]`` float64.

    Multiplying by a power of two rounds nothing, in any dtype, unless it over- or underflows.

    Args:
        group: the symmetries.
        space: of the flat vector.
        seed: of the element.
        size: every independent symmetry, or every channel's scale, moves by ``2^k`` with ``k``
            uniform among the whole numbers from ``-size`` to ``size`` except 0.
        channels: move every channel by itself instead of whole tensors.
    """
    generator = derived_generator(seed, "element of the channels" if channels else "element")
    count = group.channels.count if channels else group.dim
    k = torch.randint(1, size + 1, (count,), generator=generator).double()
    k *= 1 - 2 * torch.randint(2, (count,), generator=generator)
    if channels:
        return torch.exp2(torch.log2(group.channels.factors(k * np.log(2.0))).round())
    return torch.exp2(space.spread(torch.from_numpy(group.basis) @ k))


def balanced_factors(
    group: SymmetryGroup, space: ParameterSpace, flat: Tensor, *, channels: bool
) -> Balanced:
    """The element that takes a network to the smallest sum of squares among its rescalings.

    The sum is strictly convex in the scales that it depends on, so that every network on an orbit
    is taken to the same point of it. There what grows weighs as much as what shrinks, for every
    symmetry: ``Σ_l E_lj ‖w_l‖² = 0``.

    Args:
        group: the symmetries.
        space: of the flat vector.
        flat: the parameters ``[P]``.
        channels: move every channel by itself instead of whole tensors.
    """
    squares = flat.detach().cpu().double().square()
    before = float(squares.sum())
    if channels:
        found = balance(squares.numpy(), group.channels)
        held = torch.from_numpy(found.held)
        # What nothing holds up stays where it is.
        moving = torch.cat([group.channels.plus[held], group.channels.minus[held]])
        ids = moving.abs().unique().long()
        s = torch.zeros(group.channels.count, dtype=torch.float64)
        s[ids] = torch.from_numpy(found.log_scales)[ids]
        lost = space.unflatten(~held & (squares > 0))
        return Balanced(
            factors=group.channels.factors(-s),
            before=before,
            after=found.value,
            slope=2 * found.imbalance,
            attained=found.attained,
            falling=tuple(name for name, part in lost.items() if bool(part.any())),
        )
    norms = np.array([float(part.sum()) for part in squares.split(space.sizes)])
    least = minimise(norms, group.basis)
    factors = space.spread(torch.from_numpy(-least.log_scales)).exp()
    falling = tuple(space.names[i] for i in least.dropped)
    return Balanced(factors, before, least.value, 2 * least.gradient_norm, least.attained, falling)
