"""Relative flatness from the second derivative of the loss in a layer's output.

The graph starts at the layer: its output is detached, and products ``A_i v_i`` of all samples come
from differentiating twice down to it, since samples do not interact. Exact sums take one product
per coordinate of the smaller space of a sample: (position, row) or (column, row) of the layer's
matrix. Probes ``v = F R Uᵀ`` with random signs R and ``F Fᵀ ⊗ U Uᵀ`` the matrix to be summed
against give unbiased values from one product each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmeter.curvature.capture import Call
from flatmeter.curvature.flatness_sums import RowBlocks, Weighing
from flatmeter.curvature.linear_layers import LinearLayer, call_of, watched
from flatmeter.curvature.matrix_view import MatrixView
from flatmeter.randomness import derived_generator
from flatmeter.risk.cost import ACTIVATION_BACKWARD, FORWARD
from flatmeter.risk.empirical import EmpiricalRisk

#: Random signs are drawn for this many samples at once, whatever the batch size is.
SIGN_BLOCK = 64


@dataclass
class _Cut:
    """A batch whose graph starts at the layer's output."""

    call: Call
    gradient: Tensor
    view: MatrixView
    first: int

    def product(self, v: Tensor) -> Tensor:
        """``A_i v_i`` for ``v [n, g, T, d]``, shaped alike."""
        if not self.gradient.requires_grad:
            return torch.zeros_like(v)
        (out,) = torch.autograd.grad(
            self.gradient,
            self.call.output,
            self.view.layer_output(self.call, v),
            retain_graph=True,
            materialize_grads=True,
        )
        return self.view.outputs(self.call, out.unsqueeze(0))[0]


def _cuts(
    risk: EmpiricalRisk, layer: LinearLayer, view: MatrixView, products: int
) -> Iterator[_Cut]:
    for first, x, y in risk.numbered_batches():
        assert layer.call.weight is not None
        z, watch = watched(risk, x, cut=(layer.call.weight,))
        call = call_of(watch, layer)
        total = risk.loss.total(z, y)
        (gradient,) = torch.autograd.grad(
            total, call.output, create_graph=True, materialize_grads=True
        )
        yield _Cut(call, gradient, view, first)
        risk.cost.add(len(x) / risk.held * (FORWARD + ACTIVATION_BACKWARD * (1 + 2 * products)))


def exact_products(view: MatrixView) -> int:
    """How many products :func:`exact_sums` takes per batch."""
    return view.groups * min(view.positions, view.columns) * view.rows


def exact_sums(
    risk: EmpiricalRisk, layer: LinearLayer, weighing: Weighing, rows: RowBlocks
) -> Tensor:
    """κ_Tr, κ_nw and Tr H, ``[3]``; the blocks of the rows are added to ``rows``."""
    view = weighing.view
    total = view.weight.new_zeros(3)
    for cut in _cuts(risk, layer, view, exact_products(view)):
        a = view.inputs(cut.call)
        diagonal = a.new_zeros(len(a), view.groups, view.rows)
        for g in range(view.groups):
            local = _Coordinates(a[:, g], weighing, g)
            for q in range(local.count):
                for s in range(view.rows):
                    products = local.project(cut.product(local.direction(q, s, view))[:, g])
                    total += local.sums(q, s, products)
                    diagonal[:, g, s] = products[:, q, s]
                    if rows.formed and not rows.single:
                        rows.blocks[g, s] += local.block(q, s, products)
        if rows.single:
            rows.add_factored(a, diagonal)
    risk.ranks.sum(total)
    return total / risk.normalizer


class _Coordinates:
    """A sample's space of outputs that its weights reach, for one group.

    Positions and rows where there are few positions: then ``a = I a``. Otherwise columns and rows:
    ``a = a I``, and the direction (j, s) moves the weight of row s and column j.
    """

    def __init__(self, a: Tensor, weighing: Weighing, group: int) -> None:
        self.a, self.group = a, group
        self.by_position = a.shape[1] <= a.shape[2]
        self.count = min(a.shape[1:])
        self.gram, self.scaled_gram = weighing.gram[group], weighing.scaled_gram[group]
        self.inverse = weighing.scales.inverse[group]
        if self.by_position:
            self.pairs = a @ a.transpose(1, 2)
            self.scaled_pairs = (a * self.inverse) @ a.transpose(1, 2)

    def direction(self, q: int, s: int, view: MatrixView) -> Tensor:
        v = self.a.new_zeros(len(self.a), view.groups, view.positions, view.rows)
        if self.by_position:
            v[:, self.group, q, s] = 1.0
        else:
            v[:, self.group, :, s] = self.a[:, :, q]
        return v

    def project(self, product: Tensor) -> Tensor:
        """Inner products of ``[n, T, d]`` with every direction: ``[n, q, d]``."""
        return product if self.by_position else self.a.transpose(1, 2) @ product

    def sums(self, q: int, s: int, products: Tensor) -> Tensor:
        if self.by_position:
            near = torch.einsum("nq,nqd->d", self.pairs[:, q], products)
            scaled = torch.einsum("nq,nqd->d", self.scaled_pairs[:, q], products)
        else:
            near = products[:, q].sum(0)
            scaled = self.inverse[q] * near
        return torch.stack([near @ self.gram[s], scaled @ self.scaled_gram[s], near[s]])

    def block(self, q: int, s: int, products: Tensor) -> Tensor:
        """What the direction adds to ``H_ss``: ``[m, m]``."""
        if self.by_position:
            return self.a[:, q].T @ torch.einsum("nq,nqm->nm", products[:, :, s], self.a)
        out = products.new_zeros(self.a.shape[2], self.a.shape[2])
        out[q] = products[:, :, s].sum(0)
        return out


def probed_sums(
    risk: EmpiricalRisk, layer: LinearLayer, weighing: Weighing, probes: range, seed: int
) -> Tensor:
    """Unbiased values of κ_Tr, κ_nw and Tr H: ``[3, len(probes)]``."""
    view = weighing.view
    identity = torch.eye(view.rows, dtype=torch.float64, device=risk.device)
    roots = (weighing.root, weighing.scaled_root, identity.expand(view.groups, -1, -1))
    out = view.weight.new_zeros(3, len(probes))
    for cut in _cuts(risk, layer, view, 3 * len(probes)):
        a = view.inputs(cut.call)
        scaled = a * weighing.scales.inverse.sqrt().unsqueeze(1)
        inputs = [_position_root(a), _position_root(scaled)]
        for i, (left, right) in enumerate(zip((*inputs, inputs[0]), roots, strict=True)):
            for j, probe in enumerate(probes):
                purpose = f"{layer.name} output probe {i} {probe}"
                shape = (view.groups, left.shape[-1], right.shape[-1])
                signs = _signs(seed, purpose, cut.first, len(a), math.prod(shape))
                v = left @ signs.to(left).reshape(-1, *shape) @ right.transpose(1, 2)
                out[i, j] += (v * cut.product(v)).sum()
    risk.ranks.sum(out)
    return out / risk.normalizer


def _position_root(a: Tensor) -> Tensor:
    """F with ``F Fᵀ = a aᵀ`` and as few columns as may be: ``[n, g, T, q]``."""
    if a.shape[2] == 1:
        norm: Tensor = a.norm(dim=-1, keepdim=True)
        return norm
    if a.shape[2] >= a.shape[3]:
        return a
    values, vectors = torch.linalg.eigh(a @ a.transpose(-1, -2))
    root: Tensor = vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
    return root


def _signs(seed: int, purpose: str, first: int, count: int, size: int) -> Tensor:
    """Signs of the samples ``first …``, the same however samples are batched: ``[count, size]``.

    ``size`` must be the same for every sample.
    """
    blocks = range(first // SIGN_BLOCK, (first + count - 1) // SIGN_BLOCK + 1)
    drawn = [
        torch.randint(
            0,
            2,
            (SIGN_BLOCK, size),
            generator=derived_generator(seed, purpose, block),
            dtype=torch.int8,
        )
        for block in blocks
    ]
    start = first - SIGN_BLOCK * blocks.start
    return 2 * torch.cat(drawn)[start : start + count] - 1
