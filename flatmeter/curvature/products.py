"""Blocks of products with the Hessian and with the Gauss-Newton matrix of the risk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from flatmeter.curvature.precision import product_noise
from flatmeter.risk.cost import GRADIENT, PRODUCT
from flatmeter.risk.empirical import EmpiricalRisk

Apply = Callable[[Tensor, bool], Tensor]
"""``v [P], keep -> A v`` for one micro-batch, whose graph is kept for more or freed."""


class _Product(ABC):
    """A curvature matrix of the risk at one point, summed over micro-batches in float64.

    The graph of a micro-batch is built once and all k vectors run against it. Where memory has room
    for the graphs of all of them they are kept for the products to come, which saves a third to a
    half of each; else memory is that of one micro-batch and k results.

    Args:
        risk: the empirical risk; its weight decay λ adds λI.
        flat: the point ``[P]``, by default the trained one.
    """

    psd = False

    def __init__(self, risk: EmpiricalRisk, flat: Tensor | None = None) -> None:
        self.risk = risk
        self.flat = (risk.theta if flat is None else flat).detach()
        self.dim, self.dtype, self.device = risk.space.dim, risk.dtype, risk.device
        self._kept: list[Apply] = []

    def matmat(self, V: Tensor) -> Tensor:
        """Apply to every row: ``[k, P] -> [k, P]``."""
        V = V.to(self.device, self.dtype)
        out = torch.zeros(V.shape, dtype=torch.float64, device=self.device)
        keep = self.risk.graphs_fit
        for apply in self._graphs(keep):
            for i, v in enumerate(V):
                out[i] += apply(v, keep or i < len(V) - 1)
        self.risk.ranks.sum(out)
        self.risk.cost.add(PRODUCT * len(V), products=len(V))
        # In place: for a large network a few vectors more or less decide whether it fits.
        out /= self.risk.normalizer
        if self.risk.weight_decay:
            out.add_(V, alpha=self.risk.weight_decay)
        return out.to(self.dtype)

    def _graphs(self, keep: bool) -> Iterator[Apply]:
        """One for each micro-batch."""
        if self._kept:
            yield from self._kept
            return
        self.risk.cost.add(GRADIENT)
        point = self.flat.to(self.dtype).clone().requires_grad_()
        built = []
        for x, y in self.risk.batches():
            apply = self._linearised(point, x, y)
            if keep:
                built.append(apply)
            yield apply
        self._kept = built

    @property
    def noise(self) -> float:
        """Relative rounding error of a product, measured on a few samples at the trained point."""
        return product_noise(self.risk, type(self).__name__, type(self))

    @abstractmethod
    def _linearised(self, point: Tensor, x: Tensor, y: Tensor) -> Apply:
        """Build a micro-batch's graph."""


class HessianOperator(_Product):
    """``v -> ∇²L(θ) v`` by reverse over reverse."""

    def _linearised(self, point: Tensor, x: Tensor, y: Tensor) -> Apply:
        total = self.risk.total(point, x, y)
        (g,) = torch.autograd.grad(total, point, create_graph=True, materialize_grads=True)

        def apply(v: Tensor, keep: bool) -> Tensor:
            if not g.requires_grad:
                return torch.zeros_like(v)
            (h,) = torch.autograd.grad(g, point, v, retain_graph=keep, materialize_grads=True)
            return h

        return apply


class GaussNewtonOperator(_Product):
    """``v -> (1/N) Σ_i J_iᵀ Λ_i J_i v``, positive semi-definite for a convex loss.

    ``J v`` is the derivative of the vector-Jacobian product in its cotangent (reverse twice).
    """

    def __init__(self, risk: EmpiricalRisk, flat: Tensor | None = None) -> None:
        super().__init__(risk, flat)
        self.psd = risk.loss.convex

    def _linearised(self, point: Tensor, x: Tensor, y: Tensor) -> Apply:
        z = self.risk.outputs(point, x)
        cotangent = torch.zeros_like(z, requires_grad=True)
        (back,) = torch.autograd.grad(
            z, point, cotangent, create_graph=True, materialize_grads=True
        )

        def apply(v: Tensor, keep: bool) -> Tensor:
            (jv,) = torch.autograd.grad(
                back, cotangent, v, retain_graph=True, materialize_grads=True
            )
            curved = self.risk.loss.curvature_product(z, y, jv)
            (g,) = torch.autograd.grad(z, point, curved, retain_graph=keep)
            return g

        return apply
