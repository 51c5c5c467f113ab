"""One scale for each channel: every tensor carries identifiers, and operators make some equal.

An entry of a tensor scales by ``s[plus] − s[minus]``, two identifiers of log-scales; 0 is the one
that is fixed. Activations only gain (``minus`` is 0); weights gain the scale of the channel they
lead to and lose that of the channel they come from. What an operator demands is always that
identifiers be the same, so that the whole system is solved by connected components.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from flatmeter.symmetry.channel_scales import Scale


class Identifiers:
    """Hands out identifiers and remembers which must be the same."""

    def __init__(self) -> None:
        self.count = 1
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def fresh(self, *shape: int) -> Tensor:
        """New identifiers, all different."""
        start, self.count = self.count, self.count + math.prod(shape)
        return torch.arange(start, self.count).reshape(shape)

    def same(self, a: Tensor, b: Tensor) -> Tensor:
        """Make two sets of identifiers equal, entry by entry after broadcasting.

        Returns:
            The broadcast set.
        """
        a, b = torch.broadcast_tensors(a, b)
        differ = a != b
        if differ.any():
            self._pairs.append((a[differ], b[differ]))
        return torch.where(b == 0, b, a)

    def fix(self, ids: Tensor) -> None:
        """Make identifiers the fixed one."""
        self.same(ids, torch.zeros_like(ids))

    def uniform(self, ids: Tensor, dims: Sequence[int]) -> Tensor:
        """Make identifiers equal along dimensions, which are cut to size one."""
        for dim in dims:
            first = ids.narrow(dim, 0, 1)
            self.same(ids, first)
            ids = first
        return ids

    def settled(self) -> np.ndarray:
        """The identifier that each one turned out to be, ``[count]``; 0 for the fixed ones."""
        empty = [torch.zeros(0, dtype=torch.long)]
        a = torch.cat([x for x, _ in self._pairs] or empty).numpy()
        b = torch.cat([x for _, x in self._pairs] or empty).numpy()
        joined = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(self.count,) * 2)
        _, label = connected_components(joined, directed=False)
        # The component of identifier 0 must keep the number 0.
        return np.asarray(np.where(label == label[0], 0, label + 1))


def numbered(
    laws: Mapping[str, Scale], identifiers: Identifiers
) -> tuple[dict[str, Scale], Tensor]:
    """The same laws by identifiers that are really different, numbered without gaps.

    An entry that gains what it loses does not move and is given the fixed identifier.

    Returns:
        The laws, and the new number of every identifier handed out, 0 where no parameter moves by
        it.
    """
    settled = torch.from_numpy(identifiers.settled())
    moving = {name: _moving(Scale(settled[s.plus], settled[s.minus])) for name, s in laws.items()}
    used = torch.zeros(int(settled.max()) + 1, dtype=torch.bool)
    used[0] = True
    for scale in moving.values():
        used[scale.plus] = used[scale.minus] = True
    number = (torch.cumsum(used, 0) - 1) * used
    laws = {name: Scale(number[s.plus], number[s.minus]) for name, s in moving.items()}
    return laws, number[settled]


def _moving(scale: Scale) -> Scale:
    common = torch.isin(torch.unique(scale.plus), torch.unique(scale.minus))
    if not bool(torch.unique(scale.plus)[common].any()):
        return scale
    still = scale.plus == scale.minus
    return Scale(scale.plus.masked_fill(still, 0), scale.minus.masked_fill(still, 0)).squeezed()
