"""The block-wise metric of the quotient Hessian: its frame, its connection, its vertical space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flatmeter.errors import NotApplicable
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.operator import rounding
from flatmeter.symmetry.blocks import scale_invariant_blocks
from flatmeter.symmetry.group import SymmetryGroup

Blocks = Literal["tensor", "row"]


@dataclass(frozen=True)
class Frame:
    """Coordinates that the metric ``Σ_b ⟨ξ_b, ζ_b⟩ / ‖w_b‖²`` covers, and their blocks.

    Args:
        index: ``[r]`` covered coordinates of the flat vector.
        block: ``[r]`` block of each of them, from 0 on.
        norm: ``[r]`` norm of its block, the diagonal D; in the parameters' dtype.
        unit: ``[r]`` ŵ, the weights over the norms.
        skipped: names of the tensors that have blocks of norm zero.
        rows: number of freed rows that are blocks of their own.
    """

    index: Tensor
    block: Tensor
    norm: Tensor
    unit: Tensor
    skipped: tuple[str, ...]
    rows: int = 0


def block_frame(risk: EmpiricalRisk, blocks: Blocks, group: Callable[[], SymmetryGroup]) -> Frame:
    """The frame at the trained point.

    Args:
        risk: the empirical risk.
        blocks: ``tensor``, or ``row`` to split tensors into the rows that normalisation frees.
        group: called for its symmetries, where blocks are rows.

    Returns:
        The frame; blocks of norm zero have no metric and are left out.

    Raises:
        NotApplicable: every block has norm zero.
    """
    space, theta = risk.space, risk.theta.double()
    tensor = space.spread(torch.arange(len(space.names), device=theta.device))
    key = tensor.clone()
    rows = scale_invariant_blocks(group(), space) if blocks == "row" else ()
    for number, row in enumerate(rows, start=1):
        key[row.indices.to(key.device)] += number * len(space.names)
    _, block = torch.unique(key, return_inverse=True)
    norm = _sums(theta.square(), block).sqrt()[block]
    index = torch.nonzero(norm > 0).flatten()
    if len(index) == 0:
        raise NotApplicable("all weights are zero, so the metric is nowhere defined")
    _, kept = torch.unique(block[index], return_inverse=True)
    skipped = torch.unique(tensor[norm == 0]).tolist()
    return Frame(
        index=index,
        block=kept,
        norm=norm[index].to(risk.dtype),
        unit=(theta / norm)[index].to(risk.dtype),
        skipped=tuple(space.names[i] for i in skipped),
        rows=len(rows),
    )


class Connection:
    """``x -> blockdiag_b( ŵ g̃ᵀ + g̃ ŵᵀ − ⟨ŵ, g̃⟩ I ) x``, the metric's Levi-Civita term.

    Args:
        frame: the metric's.
        gradient: ``[r]`` the loss's gradient on the frame's coordinates.
    """

    psd = False

    def __init__(self, frame: Frame, gradient: Tensor) -> None:
        self.block, self.unit = frame.block, frame.unit.double()
        self.gradient = frame.norm.double() * gradient.double()
        self.dim, self.dtype, self.device = len(gradient), gradient.dtype, gradient.device
        self.inner = _sums(self.unit * self.gradient, self.block)
        self.noise = rounding(self.dtype)

    def matmat(self, V: Tensor) -> Tensor:
        """``[k, r] -> [k, r]``, in float64 inside."""
        x = V.double()
        along_gradient = _sums(self.gradient * x, self.block)[:, self.block]
        along_weights = _sums(self.unit * x, self.block)[:, self.block]
        out = self.unit * along_gradient + self.gradient * along_weights
        return (out - self.inner[self.block] * x).to(self.dtype)

    @property
    def trace(self) -> float:
        """``Σ_b (2 − d_b) ⟨w_b, g_b⟩``, d_b the number of entries of block b."""
        return float(((2 - torch.bincount(self.block)) * self.inner).sum())


def vertical_basis(risk: EmpiricalRisk, group: SymmetryGroup, frame: Frame) -> Tensor:
    """Directions of the tensor-wise symmetries in the frame, orthonormal: ``[r', r]``."""
    if group.dim == 0:
        return frame.unit.new_zeros(0, len(frame.index))
    tangent = group.vertical(risk.theta.double(), risk.space)[:, frame.index]
    tangent = tangent / frame.norm.double()
    values, vectors = torch.linalg.eigh(tangent @ tangent.T)
    used = values > 1e-12 * values.max()
    basis: Tensor = (vectors[:, used] / values[used].sqrt()).T @ tangent
    return basis.to(risk.dtype)


def _sums(x: Tensor, block: Tensor) -> Tensor:
    """Sums over each block: ``[…, r] -> […, blocks]``."""
    count = int(block.max()) + 1
    sums: Tensor = x.new_zeros(*x.shape[:-1], count).index_add_(-1, block, x)
    return sums
