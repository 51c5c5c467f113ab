"""The spheres that scale-invariant blocks live on, and paths along them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor


class Block(Protocol):
    """A set of parameters: a name, and indices ``[size]`` into the flat vector."""

    @property
    def name(self) -> str:
        """What a reader calls it."""
        ...

    @property
    def indices(self) -> Tensor:
        """Entries of the flat vector."""
        ...


BlockT = TypeVar("BlockT", bound=Block)


def movable(blocks: Sequence[BlockT], theta: Tensor) -> tuple[BlockT, ...]:
    """The blocks that can move along their spheres.

    A block of one entry has no direction to move in: only its sign can matter (a bias before
    batch-norm changes nothing at all). A block of norm zero has no sphere.

    Args:
        blocks: with indices on the CPU.
        theta: ``[P]``.
    """
    nonzero = theta.detach().cpu() != 0
    return tuple(b for b in blocks if len(b.indices) > 1 and bool(nonzero[b.indices].any()))


class Spheres:
    """Blocks ``θ_b = r_b u_b`` of a flat vector, each on the sphere of its own radius.

    Directions are compact float64 vectors ``[m]`` over the entries of the blocks.

    Attributes:
        blocks: those that can move; see :func:`movable`.
        index: ``[m]`` their entries in the flat vector.
        label: ``[m]`` the block each entry belongs to.
        radii: ``[B]`` the norms r_b.
        unit: ``[m]`` the entries of u_b.
        radius: ``[m]`` r_b repeated over the block's entries.

    Args:
        theta: ``[P]``.
        blocks: disjoint sets of entries.
        joint: directions have norm one over all blocks together, instead of in each.
    """

    def __init__(self, theta: Tensor, blocks: Sequence[Block], *, joint: bool = False) -> None:
        self.theta = theta.detach().double()
        self.blocks = movable(blocks, theta)
        index = torch.cat([torch.zeros(0, dtype=torch.long), *(b.indices for b in self.blocks)])
        sizes = torch.tensor([len(b.indices) for b in self.blocks], dtype=torch.long)
        label = torch.arange(len(self.blocks)).repeat_interleave(sizes)
        self.index, self.label = index.to(theta.device), label.to(theta.device)
        self.sphere = torch.zeros_like(self.label) if joint else self.label
        self.radii = self.norms(self.theta[self.index])
        self.radius = self.radii[self.label]
        self.unit = self.theta[self.index] / self.radius

    def sums(self, values: Tensor, label: Tensor | None = None) -> Tensor:
        """Sum of ``values [m]`` over each block: ``[B]``."""
        out = torch.zeros(len(self.blocks), dtype=torch.float64, device=values.device)
        return out.index_add_(0, self.label if label is None else label, values)

    def norms(self, values: Tensor) -> Tensor:
        """Norm of ``values [m]`` over each block: ``[B]``."""
        return self.sums(values.square()).sqrt()

    def padded(self, values: Tensor, dim: int) -> Tensor:
        """``values [m]`` in their places of a vector of zeros, ``[dim]``."""
        return values.new_zeros(dim).index_copy(0, self.index, values)

    def tangent(self, values: Tensor) -> Tensor:
        """Remove from each block of ``values [m]`` its component along u_b."""
        return values - self.sums(values * self.unit)[self.label] * self.unit

    def direction(self, values: Tensor, otherwise: Tensor) -> Tensor:
        """The tangent part of ``values [m]`` at norm one, ``otherwise`` where that part is 0."""
        tangent = self.tangent(values)
        norm = self.sums(tangent.square(), self.sphere).sqrt()[self.sphere]
        # What rounding leaves of a vector along u_b is no direction.
        floor = 1e-12 * self.sums(values.square(), self.sphere).sqrt()[self.sphere]
        return torch.where(norm > floor, tangent / norm.clamp_min(1e-300), otherwise)


class StraightPath:
    """``t -> θ + t D v`` with ``D = diag(r_b)``.

    Args:
        spheres: the blocks that move.
        v: ``[m]`` the direction.
    """

    def __init__(self, spheres: Spheres, v: Tensor) -> None:
        self.spheres, self.v = spheres, v

    def moved(self, t: float) -> Tensor:
        """The blocks' entries at ``t``: ``[m]``."""
        s = self.spheres
        return s.radius * (s.unit + t * self.v)

    def __call__(self, t: float) -> Tensor:
        """The whole flat vector at ``t``: ``[P]`` float64."""
        s = self.spheres
        return s.theta.index_copy(0, s.index, self.moved(t))

    def pull(self, t: float, gradient: Tensor) -> Tensor:
        """Derivative in ``v [m]`` of a function with this ``gradient [P]`` at ``t``."""
        s = self.spheres
        return t * s.radius * gradient[s.index]


class GeodesicPath(StraightPath):
    """``t -> r_b (cos(t s_b) u_b + sin(t s_b) v_b / s_b)`` with ``s_b = ‖v_b‖``: great circles.

    Args:
        spheres: the blocks that move.
        v: ``[m]`` the direction.
    """

    def __init__(self, spheres: Spheres, v: Tensor) -> None:
        super().__init__(spheres, v)
        self.speed = spheres.norms(v)[spheres.label].clamp_min(1e-300)

    def moved(self, t: float) -> Tensor:
        """The blocks' entries at ``t``: ``[m]``."""
        s, angle = self.spheres, t * self.speed
        return s.radius * (torch.cos(angle) * s.unit + torch.sin(angle) / self.speed * self.v)

    def pull(self, t: float, gradient: Tensor) -> Tensor:
        """Derivative in ``v [m]``, through the speed too."""
        s, angle, g = self.spheres, t * self.speed, gradient[self.spheres.index]
        sin, cos, along = torch.sin(angle), torch.cos(angle), self.v / self.speed
        g_unit, g_along = (s.sums(g * w)[s.label] for w in (s.unit, along))
        turned = -t * sin * g_unit + (t * cos - sin / self.speed) * g_along
        return s.radius * (sin / self.speed * g + turned * along)
