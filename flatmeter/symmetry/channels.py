"""One scale for each channel: every tensor carries identifiers, and operators make some equal.

An entry of a tensor scales by ``s[plus] − s[minus]``, two identifiers of log-scales; 0 is the one
that is fixed. Activations only gain (``minus`` is 0); weights gain the scale of the channel they
lead to and lose that of the channel they come from. What an operator demands is always that
identifiers be the same, so that the whole system is solved by connected components.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from flatmeter.symmetry.group import ChannelScales


@dataclass(frozen=True)
class Scale:
    """The identifiers of a tensor's entries.

    Args:
        plus, minus: int64, of the tensor's number of dimensions; a dimension along which nothing
            varies has size one.
    """

    plus: Tensor
    minus: Tensor

    @property
    def is_fixed(self) -> bool:
        """Holds still whatever comes of the other identifiers."""
        return not (self.plus.any() or self.minus.any())

    def factor(self, e: Tensor) -> Tensor:
        """What the entries are multiplied by, from the factor ``[count]`` of each identifier."""
        return e[self.plus] / e[self.minus]

    def squeezed(self) -> Scale:
        """Dimensions along which nothing varies, cut to size one."""
        return Scale(_narrowed(self.plus), _narrowed(self.minus))


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


def numbered(laws: Mapping[str, Scale], identifiers: Identifiers) -> tuple[dict[str, Scale], int]:
    """The same laws by identifiers that are really different, numbered without gaps.

    An entry that gains what it loses does not move and is given the fixed identifier.

    Returns:
        The laws, and the number of identifiers, the fixed one included.
    """
    settled = torch.from_numpy(identifiers.settled())
    moving = {name: _moving(Scale(settled[s.plus], settled[s.minus])) for name, s in laws.items()}
    used = torch.zeros(int(settled.max()) + 1, dtype=torch.bool)
    used[0] = True
    for scale in moving.values():
        used[scale.plus] = used[scale.minus] = True
    number = torch.cumsum(used, 0) - 1
    laws = {name: Scale(number[s.plus], number[s.minus]) for name, s in moving.items()}
    return laws, int(used.sum())


def _moving(scale: Scale) -> Scale:
    common = torch.isin(torch.unique(scale.plus), torch.unique(scale.minus))
    if not bool(torch.unique(scale.plus)[common].any()):
        return scale
    still = scale.plus == scale.minus
    return Scale(scale.plus.masked_fill(still, 0), scale.minus.masked_fill(still, 0))


def channel_scales(
    laws: Mapping[str, Scale],
    count: int,
    shapes: Mapping[str, torch.Size],
    null: Container[str],
) -> ChannelScales:
    """Every entry's identifiers, in the order of the flat vector.

    Args:
        laws: by name; a tensor without one holds still.
        count: number of identifiers.
        shapes: of the tensors, in order.
        null: names of the biases that change nothing.
    """

    def flat(part: str) -> Tensor:
        return torch.cat(
            [
                getattr(laws[n], part).expand(shape).reshape(-1)
                if n in laws
                else torch.zeros(shape.numel(), dtype=torch.long)
                for n, shape in shapes.items()
            ]
        )

    nullity = [torch.full((shape.numel(),), n in null) for n, shape in shapes.items()]
    return ChannelScales(flat("plus"), flat("minus"), count, torch.cat(nullity))


def _narrowed(ids: Tensor) -> Tensor:
    for dim in range(ids.ndim):
        first = ids.narrow(dim, 0, 1) if ids.shape[dim] else ids
        if ids.stride(dim) == 0 or bool((ids == first).all()):
            ids = first
    return ids
