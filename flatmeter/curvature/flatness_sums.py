"""What relative flatness adds up over samples, from any form of a layer's curvature.

The Hessian A of a sample's loss in the layer's output is given entry by entry, or by columns as
``A = Σ_c δ_c δ_cᵀ``. With W the layer's matrix and D = diag(σ) the standard deviations of its
features, the sums are::

    κ_Tr = Σ_ss' (W Wᵀ)_ss' Σ_t H_st,s't        κ_nw = Σ_ss' (W D² Wᵀ)_ss' Σ_t H_st,s't / σ_t²
    Tr H = Σ_s Σ_t H_st,st
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmeter.curvature.matrix_view import MatrixView
from flatmeter.curvature.row_eigenvalues import (
    STORED,
    RowMaxima,
    factored_maxima,
    formed_maxima,
)
from flatmeter.ranks.group import Ranks
from flatmeter.risk.empirical import EmpiricalRisk

#: Most numbers of per-sample gradients held at once.
GRADIENT_BUDGET = 2**23
#: Most numbers in the blocks of all rows that are summed instead of left to passes over the data.
SUMMED = 2**22


class FeatureMoments:
    """Mean and variance of a layer's features over all positions of all samples.

    Batches are merged by their means, so that no digits are lost (Chan, Golub, LeVeque 1983).

    Args:
        view: the layer as matrices.
        dtype: in which its features are computed.
    """

    def __init__(self, view: MatrixView, dtype: torch.dtype) -> None:
        g, _, m = view.weight.shape
        self.count = 0
        self.mean = view.weight.new_zeros(g, m)
        self.spread = view.weight.new_zeros(g, m)
        self.rounding = 8 * torch.finfo(dtype).eps

    def add(self, features: Tensor) -> None:
        """Take in ``features [k, g, m]``."""
        k = len(features)
        mean = features.mean(0)
        shift = mean - self.mean
        self.spread += (features - mean).square().sum(0)
        self.spread += shift.square() * (self.count * k / (self.count + k))
        self.mean += shift * (k / (self.count + k))
        self.count += k

    def add_up(self, ranks: Ranks) -> None:
        """Become the moments of all processes' features."""
        if ranks.size == 1:
            return
        count = self.mean.new_tensor(self.count)
        mean = count * self.mean
        ranks.sum(count, mean)
        mean /= count
        self.spread += self.count * (self.mean - mean).square()
        ranks.sum(self.spread)
        self.mean, self.count = mean, int(count)

    @property
    def deviation(self) -> Tensor:
        """σ ``[g, m]``, exactly zero where a feature is constant up to rounding."""
        sigma = (self.spread / self.count).sqrt()
        return sigma.masked_fill(sigma <= self.rounding * self.mean.abs(), 0.0)


@dataclass(frozen=True)
class Scales:
    """Feature scales for the normalised sum.

    Args:
        forward: σ ``[g, m]``, 0 for features that are left out.
        inverse: 1/σ² ``[g, m]``, 0 for those.
        left_out: how many have σ = 0.
    """

    forward: Tensor
    inverse: Tensor
    left_out: int

    @classmethod
    def of(cls, moments: FeatureMoments, view: MatrixView) -> Scales:
        """From a layer's features; the bias's constant feature has scale 1."""
        sigma = moments.deviation
        if view.constant:
            sigma = torch.cat([sigma[:, :-1], torch.ones_like(sigma[:, :1])], 1)
        inverse = torch.where(sigma > 0, sigma.square().clamp_min(1e-300).reciprocal(), 0.0)
        return cls(sigma, inverse, int((sigma == 0).sum()))


class Weighing:
    """The sums of one layer, as functions of a sample's inputs and curvature.

    Args:
        view: the layer as matrices.
        scales: of its features.
    """

    def __init__(self, view: MatrixView, scales: Scales) -> None:
        self.view, self.scales = view, scales
        self.root = _root(view.weight)
        self.scaled_root = _root(view.weight * scales.forward.unsqueeze(1))
        self.gram = self.root @ self.root.transpose(1, 2)
        self.scaled_gram = self.scaled_root @ self.scaled_root.transpose(1, 2)

    def of_columns(self, a: Tensor, deltas: Tensor) -> Tensor:
        """Sums over samples from columns of the curvature.

        Args:
            a: inputs ``[n, g, T, m]``.
            deltas: columns ``[c, n, g, T, d]``.

        Returns:
            ``[3, c]``: κ_Tr, κ_nw and Tr H.
        """
        spread = a * self.scales.inverse.sqrt().unsqueeze(1)
        total = torch.zeros(3, len(deltas), dtype=torch.float64, device=a.device)
        for part, scaled, delta in self._parts(a, spread, deltas):
            total[0] += _squared_sums(delta @ self.root, part)
            total[1] += _squared_sums(delta @ self.scaled_root, scaled)
            total[2] += _squared_sums(delta, part)
        return total

    def _parts(self, a: Tensor, spread: Tensor, deltas: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Samples in parts small enough for what is formed of each."""
        positions, entries = a.shape[2], self.view.weight.numel()
        formed = max(min(positions**2 * a.shape[1], entries), deltas[0, 0].numel())
        size = max(1, GRADIENT_BUDGET // (len(deltas) * formed))
        return zip(a.split(size), spread.split(size), deltas.split(size, dim=1), strict=True)


def _squared_sums(x: Tensor, a: Tensor) -> Tensor:
    """``Σ_i ‖Σ_t x_it a_itᵀ‖²`` for ``x [c, n, g, T, r]`` and ``a [n, g, T, m]``: ``[c]``.

    By the Gram matrices of positions where these are smaller.
    """
    if x.shape[-2] ** 2 <= x.shape[-1] * a.shape[-1]:
        product = (x @ x.transpose(-1, -2)) * (a @ a.transpose(-1, -2))
    else:
        product = (x.transpose(-1, -2) @ a).square()
    return product.sum((1, 2, 3, 4))


def _root(weight: Tensor) -> Tensor:
    """``U [g, d, r]`` with ``U Uᵀ = W Wᵀ``, r = min(d, m)."""
    R = torch.linalg.qr(weight.transpose(1, 2), mode="r").R
    root: Tensor = R.transpose(1, 2)
    return root


class RowBlocks:
    """The blocks ``H_ss`` of a layer's rows, kept in whichever form is small.

    Args:
        view: the layer as matrices.
        samples: N of all processes, positions counted where each is a sample of its own.
        single: a sample has one position.
    """

    def __init__(self, view: MatrixView, samples: int, *, single: bool) -> None:
        g, d, m = view.weight.shape
        self.single = single
        self.factored = single and samples * g * (m + d) <= STORED
        self.formed = not self.factored and g * d * m * m <= SUMMED
        self.weight = view.weight
        self.inputs: list[Tensor] = []
        self.diagonals: list[Tensor] = []
        if self.formed:
            self.blocks = view.weight.new_zeros(g, d, m, m)

    @property
    def kept(self) -> bool:
        """The blocks are small enough to be kept in some form."""
        return self.factored or self.formed

    def add_factored(self, inputs: Tensor, diagonal: Tensor) -> None:
        """``Σ_i diagonal_is a_i a_iᵀ`` for ``inputs [n, g, 1, m]``, ``diagonal [n, g, d]``.

        Given the same tensor of inputs again, the diagonals of the same samples add up.
        """
        if self.formed:
            a = inputs[:, :, 0]
            self.blocks += torch.einsum("ngd,ngi,ngj->gdij", diagonal, a, a)
        elif self.factored and self.inputs and self.inputs[-1] is inputs:
            self.diagonals[-1] = self.diagonals[-1] + diagonal
        elif self.factored:
            self.inputs.append(inputs)
            self.diagonals.append(diagonal)

    def add_columns(self, a: Tensor, deltas: Tensor) -> None:
        """The same from columns of the curvature, shaped as for :class:`Weighing`.

        Nothing was added where it fails on the way.
        """
        if self.single:
            self.add_factored(a, deltas[:, :, :, 0].square().sum(0))
        elif self.formed:
            added = torch.zeros_like(self.blocks)
            size = max(1, GRADIENT_BUDGET // (len(deltas) * self.blocks[:, :, 0].numel()))
            for part, delta in zip(a.split(size), deltas.split(size, dim=1), strict=True):
                grad = (delta.transpose(-1, -2) @ part).flatten(0, 1)
                added += torch.einsum("ngdi,ngdj->gdij", grad, grad)
            self.blocks += added

    def maxima(self, risk: EmpiricalRisk, *, seed: int, rtol: float) -> RowMaxima | None:
        """λ_max of every row's block; ``None`` where they were not kept."""
        if self.formed:
            blocks = self.blocks.flatten(0, 1) / risk.normalizer
            risk.ranks.sum(blocks)
            return formed_maxima(blocks)
        if not self.factored:
            return None
        # Of several processes one may hold no sample.
        g, d, m = self.weight.shape
        a = torch.cat([*self.inputs, self.weight.new_zeros(0, g, 1, m)])[:, :, 0]
        diagonal = torch.cat([*self.diagonals, self.weight.new_zeros(0, g, d)]) / risk.normalizer
        per_group = [
            factored_maxima(x, w, seed=seed, rtol=rtol, total=risk.ranks.sum)
            for x, w in zip(a.unbind(1), diagonal.unbind(1), strict=True)
        ]
        return RowMaxima(
            torch.cat([p.values for p in per_group]),
            torch.cat([p.bounds for p in per_group]),
            max(p.steps for p in per_group),
            all(p.converged for p in per_group),
            torch.cat([p.vectors for p in per_group]),
        )

    def forms(self, vectors: Tensor) -> Tensor | None:
        """``v_sᵀ H_ss v_s`` summed over samples for a vector of every row, ``[rows, m]``.

        Returns:
            ``[rows]``; ``None`` where the blocks were not kept.
        """
        if self.formed:
            blocks = self.blocks.flatten(0, 1)
            return torch.einsum("ri,rij,rj->r", vectors, blocks, vectors)
        if not self.factored:
            return None
        a = torch.cat(self.inputs)[:, :, 0]
        rows = vectors.reshape(a.shape[1], -1, a.shape[2])
        along = torch.einsum("ngm,gdm->ngd", a, rows)
        return (torch.cat(self.diagonals) * along.square()).sum(0).flatten()
