"""Blocks of products with the Hessian and with the Gauss-Newton matrix of the risk."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from flatmeter.curvature.precision import product_noise
from flatmeter.risk.cost import GRADIENT, PRODUCT
from flatmeter.risk.empirical import EmpiricalRisk


class _Product(ABC):
    """A curvature matrix of the risk at one point, summed over micro-batches in float64.

    Args:
        risk: the empirical risk; its weight decay λ adds λI.
        flat: the point ``[P]``, by default the trained one.
    """

    psd = False

    def __init__(self, risk: EmpiricalRisk, flat: Tensor | None = None) -> None:
        self.risk = risk
        self.flat = (risk.theta if flat is None else flat).detach()
        self.dim, self.dtype, self.device = risk.space.dim, risk.dtype, risk.device

    def matmat(self, V: Tensor) -> Tensor:
        """Apply to every row: ``[k, P] -> [k, P]``.

        The graph of a micro-batch is built once and all k vectors run against it, so that memory
        is that of one micro-batch and k results.
        """
        V = V.to(self.device, self.dtype)
        out = torch.zeros(V.shape, dtype=torch.float64, device=self.device)
        point = self.flat.to(self.dtype).clone().requires_grad_()
        for x, y in self.risk.batches():
            self._accumulate(out, V, point, x, y)
        self.risk.cost.add(GRADIENT + PRODUCT * len(V), products=len(V))
        out = out / self.risk.normalizer + self.risk.weight_decay * V.double()
        return out.to(self.dtype)

    @property
    def noise(self) -> float:
        """Relative rounding error of a product, measured on a few samples at the trained point."""
        return product_noise(self.risk, type(self).__name__, type(self))

    @abstractmethod
    def _accumulate(self, out: Tensor, V: Tensor, point: Tensor, x: Tensor, y: Tensor) -> None:
        """Add a micro-batch's products with the rows of ``V`` to ``out``, both ``[k, P]``."""


class HessianOperator(_Product):
    """``v -> ∇²L(θ) v`` by reverse over reverse."""

    def _accumulate(self, out: Tensor, V: Tensor, point: Tensor, x: Tensor, y: Tensor) -> None:
        total = self.risk.total(point, x, y)
        (g,) = torch.autograd.grad(total, point, create_graph=True, materialize_grads=True)
        if not g.requires_grad:
            return
        for i, v in enumerate(V):
            last = i == len(V) - 1
            (h,) = torch.autograd.grad(g, point, v, retain_graph=not last, materialize_grads=True)
            out[i] += h


class GaussNewtonOperator(_Product):
    """``v -> (1/N) Σ_i J_iᵀ Λ_i J_i v``, positive semi-definite for a convex loss.

    ``J v`` is the derivative of the vector-Jacobian product in its cotangent (reverse twice).
    """

    def __init__(self, risk: EmpiricalRisk, flat: Tensor | None = None) -> None:
        super().__init__(risk, flat)
        self.psd = risk.loss.convex

    def _accumulate(self, out: Tensor, V: Tensor, point: Tensor, x: Tensor, y: Tensor) -> None:
        z = self.risk.outputs(point, x)
        cotangent = torch.zeros_like(z, requires_grad=True)
        (back,) = torch.autograd.grad(
            z, point, cotangent, create_graph=True, materialize_grads=True
        )
        for i, v in enumerate(V):
            (jv,) = torch.autograd.grad(
                back, cotangent, v, retain_graph=True, materialize_grads=True
            )
            curved = self.risk.loss.curvature_product(z, y, jv)
            (g,) = torch.autograd.grad(z, point, curved, retain_graph=True)
            out[i] += g
