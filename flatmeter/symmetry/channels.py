"""One scale for each channel: every tensor carries identifiers, and operators make some equal.

An entry of a tensor scales by ``s[plus] − s[minus]``, two identifiers of log-scales; 0 is the one
that is fixed. Activations only gain (``minus`` is 0); weights gain the scale of the channel they
lead to and lose that of the channel they come from. What an operator demands is always that
identifiers be the same or, of two factors of a product that must hold still, opposite; ``−i`` is
the opposite of ``i``. The whole system is solved by connected components.
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
            The set with fewer entries, which now stands for both, with 0 where either had it.
        """
        dims = max(a.ndim, b.ndim)
        a, b = a[(None,) * (dims - a.ndim)], b[(None,) * (dims - b.ndim)]
        left, right = torch.broadcast_tensors(a, b)
        differ = left != right
        if differ.any():
            self._pairs.append((left[differ], right[differ]))
        few, many = (a, b) if a.numel() <= b.numel() else (b, a)
        still = many == 0
        for dim in range(dims):
            if few.shape[dim] == 1:
                still = still.any(dim, keepdim=True)
        return few.masked_fill(still, 0)

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

    def agree(self, a: Tensor, b: Tensor) -> bool:
        """Two sets are equal by what was demanded so far, entry by entry after broadcasting."""
        settled = self.settled()
        return bool((_looked_up(settled, a) == _looked_up(settled, b)).all())

    def settled(self) -> Tensor:
        """The identifier that each one turned out to be, ``[count]``; 0 for the fixed ones.

        Every identifier has a node for itself and one for its opposite. Where these hang together
        a scale is its own opposite, which is zero.
        """
        empty = [torch.zeros(0, dtype=torch.long)]
        a = torch.cat([x for x, _ in self._pairs] or empty)
        b = torch.cat([x for _, x in self._pairs] or empty)
        both = torch.stack([torch.cat([a, -a]), torch.cat([b, -b])])
        rows, columns = torch.where(both < 0, self.count - both, both).numpy()
        size = 2 * self.count
        joined = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(size, size))
        _, label = connected_components(joined, directed=False)
        up, down = label[: self.count], label[self.count :].copy()
        down[0] = up[0]
        first = np.full(size, self.count)
        np.minimum.at(first, up, np.arange(self.count))
        np.minimum.at(first, down, np.arange(self.count))
        found = first[up]
        found = np.where(up[found] == up, found, -found)
        return torch.from_numpy(np.where((up == down) | (up == up[0]), 0, found))


def _looked_up(values: Tensor, ids: Tensor) -> Tensor:
    return values[ids.abs()] * ids.sign()


def numbered(
    laws: Mapping[str, Scale], identifiers: Identifiers
) -> tuple[dict[str, Scale], Tensor]:
    """The same laws by identifiers that are really different, numbered without gaps.

    An entry that gains what it loses does not move and is given the fixed identifier.

    Returns:
        The laws, and the new number of every identifier handed out, 0 where no parameter moves by
        it, negative where it turned out to be the opposite.
    """
    settled = identifiers.settled()
    moving = {name: _moving(_renamed(settled, scale)) for name, scale in laws.items()}
    used = torch.zeros(identifiers.count, dtype=torch.bool)
    used[0] = True
    for scale in moving.values():
        used[scale.plus.abs()] = used[scale.minus.abs()] = True
    number = (torch.cumsum(used, 0) - 1) * used
    laws = {name: _renamed(number, scale) for name, scale in moving.items()}
    return laws, _looked_up(number, settled)


def _renamed(names: Tensor, scale: Scale) -> Scale:
    return Scale(_looked_up(names, scale.plus), _looked_up(names, scale.minus))


def _moving(scale: Scale) -> Scale:
    common = torch.isin(torch.unique(scale.plus), torch.unique(scale.minus))
    if not bool(torch.unique(scale.plus)[common].any()):
        return scale
    still = scale.plus == scale.minus
    return Scale(scale.plus.masked_fill(still, 0), scale.minus.masked_fill(still, 0)).squeezed()
