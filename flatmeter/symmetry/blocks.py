"""The smallest sets of parameters whose scale the network does not see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.channel_scales import ChannelScales
from flatmeter.symmetry.group import SymmetryGroup


@dataclass(frozen=True)
class Block:
    """A set of parameters with ``L(…, c θ_b, …) = L`` for every c > 0.

    Args:
        name: its tensors and rows, such as ``conv1.weight[3]``.
        indices: int64 ``[size]`` into the flat vector, ascending, on the CPU.
    """

    name: str
    indices: Tensor


def scale_invariant_blocks(group: SymmetryGroup, space: ParameterSpace) -> tuple[Block, ...]:
    """Read the blocks off the scales of single channels.

    A channel scale that entries gain and none loses belongs to numbers that are normalised before
    anything else sees them: the row of a convolution before a batch-norm with batch statistics, a
    layer's weight and bias before a layer-norm, a group's filters before a group-norm. A bias that
    changes nothing, since the normalisation subtracts it again, belongs to no block.

    Args:
        group: the symmetries.
        space: of the flat vector.

    Returns:
        Disjoint blocks, in the order in which they begin.
    """
    channels = group.channels
    lone = lone_scales(channels)
    gained, indices = [torch.zeros(0, dtype=torch.int)], [torch.zeros(0, dtype=torch.long)]
    for law, shape, null, start in zip(
        channels.laws, channels.shapes, channels.null, space.offsets, strict=False
    ):
        if not null and lone[law.plus.clamp_min(0)].any():
            ids = law.plus.clamp_min(0).int().expand(shape).reshape(-1)
            taken = torch.nonzero(lone[ids]).flatten()
            gained.append(ids[taken])
            indices.append(taken + start)
    scale = torch.cat(gained)
    order = torch.argsort(scale, stable=True)
    sizes = torch.bincount(scale, minlength=channels.count)
    parts = torch.cat(indices)[order].split(sizes[sizes > 0].tolist()) if len(scale) else ()
    blocks = [Block(_name(part, space), part) for part in parts]
    return tuple(sorted(blocks, key=lambda block: int(block.indices[0])))


def lone_scales(channels: ChannelScales) -> Tensor:
    """The scales that entries gain and none loses, as bool ``[count]``; one for each block."""
    lone = torch.zeros(channels.count, dtype=torch.bool)
    for law, null in zip(channels.laws, channels.null, strict=True):
        if not null:
            lone[law.plus.clamp_min(0)] = True
    for law in channels.laws:
        lone[law.minus.abs()] = False
        lone[law.plus.clamp_max(0).abs()] = False
    lone[0] = False
    return lone


def _name(indices: Tensor, space: ParameterSpace) -> str:
    """The tensors and slices that a set of entries makes up."""
    starts = torch.tensor(space.offsets[1:])
    owner = torch.bucketize(indices, starts, right=True)
    parts = []
    for i in torch.unique(owner).tolist():
        local = indices[owner == i] - space.offsets[i]
        parts.append(space.names[i] + _slice(local, tuple(space.shapes[i])))
    return ", ".join(parts)


def _slice(local: Tensor, shape: tuple[int, ...]) -> str:
    """``[3]``, ``[0:4]``, ``[:, 3]``, nothing for the whole tensor, ``[…]`` for anything else."""
    size = torch.Size(shape).numel()
    if len(local) == size:
        return ""
    places = torch.unravel_index(local, shape)
    for dim, place in enumerate(places[:2]):
        low, high = int(place.min()), int(place.max()) + 1
        if len(local) == size // shape[dim] * (high - low):
            return f"[{':, ' * dim}{low if high - low == 1 else f'{low}:{high}'}]"
    return "[…]"
