"""Blocks of products with the Hessian and with the Gauss-Newton matrix of the risk."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flatmeter.curvature.choice import choose
from flatmeter.curvature.precision import product_noise
from flatmeter.curvature.strategies import GAUSS_NEWTON, HESSIAN, Apply, Curvature
from flatmeter.out_of_memory import ran_out
from flatmeter.risk.cost import GRADIENT, PRODUCT
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.strategy import Mode, Strategy, is_batched, mode_of


class _Product:
    """A curvature matrix of the risk at one point, summed over micro-batches in float64.

    The graph of a micro-batch is built once and all k vectors run against it. Where memory has room
    for the graphs of all of them they are kept for the products to come, which saves a third to a
    half of each; else memory is that of one micro-batch and k results. Where memory runs out all
    the same, fewer vectors are taken at once, then no graph is kept.

    Args:
        risk: the empirical risk; its weight decay λ adds λI.
        flat: the point ``[P]``, by default the trained one.
    """

    psd = False
    curvature: Curvature

    def __init__(self, risk: EmpiricalRisk, flat: Tensor | None = None) -> None:
        self.risk = risk
        self.flat = (risk.theta if flat is None else flat).detach()
        self.dim, self.dtype, self.device = risk.space.dim, risk.dtype, risk.device
        self._kept: list[Apply] = []
        self._kept_mode: Mode = "reverse"

    def matmat(self, V: Tensor) -> Tensor:
        """Apply to every row: ``[k, P] -> [k, P]``."""
        V = V.to(self.device, self.dtype)
        if not len(V):
            return V
        strategy = choose(self.risk, self.curvature, len(V))
        out = self._sum(strategy, V)
        self.risk.ranks.sum(out)
        self.risk.cost.add(PRODUCT * len(V), products=len(V))
        # In place: for a large network a few vectors more or less decide whether it fits.
        out /= self.risk.normalizer
        if self.risk.weight_decay:
            out.add_(V, alpha=self.risk.weight_decay)
        return out.to(self.dtype)

    def _sum(self, strategy: Strategy, V: Tensor) -> Tensor:
        """Over this process's micro-batches, in float64; less at once while memory runs out."""
        memory = self.risk.memory
        while True:
            at_once = self.risk.vectors_at_once(len(V)) if is_batched(strategy) else 1
            try:
                return self._sum_by(strategy, V, at_once)
            except (RuntimeError, MemoryError) as error:
                # A graph that broke off in the middle cannot be used again.
                self._kept = []
                if not (ran_out(error) and memory.retreat(at_once, self.risk.graphs_fit)):
                    raise

    def _sum_by(self, strategy: Strategy, V: Tensor, at_once: int) -> Tensor:
        out = torch.zeros(V.shape, dtype=torch.float64, device=self.device)
        keep = self.risk.graphs_fit
        for apply in self._graphs(mode_of(strategy), keep):
            for first in range(0, len(V), at_once):
                last = min(first + at_once, len(V))
                rows = apply(V[first:last], keep=keep or last < len(V))
                out[first:last] += rows
        return out

    def _graphs(self, mode: Mode, keep: bool) -> Iterator[Apply]:
        """One for each micro-batch."""
        if keep and self._kept and self._kept_mode == mode:
            yield from self._kept
            return
        # Also where another operator ran out of memory since.
        self._kept = []
        self.risk.cost.add(GRADIENT)
        point = self.flat.to(self.dtype).clone().requires_grad_()
        built = []
        for x, y in self.risk.batches():
            apply = self.curvature.linearise(mode, self.risk, point, x, y)
            if keep:
                built.append(apply)
            yield apply
        self._kept, self._kept_mode = built, mode

    @property
    def noise(self) -> float:
        """Relative rounding error of a product, measured on a few samples at the trained point."""
        return product_noise(self.risk, type(self).__name__, type(self))


class HessianOperator(_Product):
    """``v -> ∇²L(θ) v``."""

    curvature = HESSIAN


class GaussNewtonOperator(_Product):
    """``v -> (1/N) Σ_i J_iᵀ Λ_i J_i v``, positive semi-definite for a convex loss."""

    curvature = GAUSS_NEWTON

    def __init__(self, risk: EmpiricalRisk, flat: Tensor | None = None) -> None:
        super().__init__(risk, flat)
        self.psd = risk.loss.convex
