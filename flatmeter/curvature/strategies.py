"""The ways to multiply one micro-batch's curvature matrix with vectors, which differ in speed only.

*Reverse over reverse* differentiates the gradient's graph once more; the graph serves all vectors
and may be kept for more products. *Forward over reverse* pushes vectors through the gradient's
computation (Pearlmutter 1994) and keeps nothing. Both take vectors one after the other or several
at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.strategy import Mode


class Apply(Protocol):
    """A micro-batch's matrix."""

    def __call__(self, V: Tensor, keep: bool) -> Tensor:
        """Images of the rows of ``V [k, P]``, taken all at once.

        Args:
            V: the vectors.
            keep: leave the graph for more; else it is freed.
        """
        ...


Build = Callable[[EmpiricalRisk, Tensor, Tensor, Tensor], Apply]
"""From the risk, a point ``[P]`` that requires a gradient, inputs and targets."""


def hessian_reverse(risk: EmpiricalRisk, point: Tensor, x: Tensor, y: Tensor) -> Apply:
    """``∇²`` of the batch's loss by differentiating the gradient's graph."""
    total = risk.total(point, x, y)
    (g,) = torch.autograd.grad(total, point, create_graph=True, materialize_grads=True)

    def apply(V: Tensor, keep: bool) -> Tensor:
        if not g.requires_grad:
            return torch.zeros_like(V)
        return _pulled(g, point, V, keep)

    return apply


def hessian_forward(risk: EmpiricalRisk, point: Tensor, x: Tensor, y: Tensor) -> Apply:
    """``∇²`` of the batch's loss by pushing vectors through the gradient."""
    at = point.detach()
    gradient = torch.func.grad(lambda flat: risk.total(flat, x, y))

    def along(v: Tensor) -> Tensor:
        image: Tensor = torch.func.jvp(gradient, (at,), (v,))[1]
        return image

    def apply(V: Tensor, keep: bool) -> Tensor:
        return _mapped(along, V)

    return apply


def gauss_newton_reverse(risk: EmpiricalRisk, point: Tensor, x: Tensor, y: Tensor) -> Apply:
    """``JᵀΛJ`` of the batch, ``Jv`` as the derivative of ``u -> Jᵀu``."""
    z = risk.outputs(point, x)
    cotangent = torch.zeros_like(z, requires_grad=True)
    (back,) = torch.autograd.grad(z, point, cotangent, create_graph=True, materialize_grads=True)

    def apply(V: Tensor, keep: bool) -> Tensor:
        pushed = _pulled(back, cotangent, V, keep=True)
        return _pulled(z, point, _curved(risk, z, y, pushed), keep)

    return apply


def gauss_newton_forward(risk: EmpiricalRisk, point: Tensor, x: Tensor, y: Tensor) -> Apply:
    """``JᵀΛJ`` of the batch, ``Jv`` pushed forward."""
    z = risk.outputs(point, x)
    at = point.detach()

    def along(v: Tensor) -> Tensor:
        pushed: Tensor = torch.func.jvp(lambda flat: risk.outputs(flat, x), (at,), (v,))[1]
        return pushed

    def apply(V: Tensor, keep: bool) -> Tensor:
        return _pulled(z, point, _curved(risk, z, y, _mapped(along, V)), keep)

    return apply


@dataclass(frozen=True)
class Curvature:
    """A kind of curvature matrix, with its computation in each mode.

    Args:
        name: of the kind.
        reverse, forward: build a micro-batch's matrix.
    """

    name: str
    reverse: Build
    forward: Build

    def linearise(
        self, mode: Mode, risk: EmpiricalRisk, point: Tensor, x: Tensor, y: Tensor
    ) -> Apply:
        """A micro-batch's matrix at a point ``[P]`` that requires a gradient."""
        build = self.forward if mode == "forward" else self.reverse
        return build(risk, point, x, y)


HESSIAN = Curvature("Hessian", hessian_reverse, hessian_forward)
GAUSS_NEWTON = Curvature("Gauss-Newton", gauss_newton_reverse, gauss_newton_forward)


def _curved(risk: EmpiricalRisk, z: Tensor, y: Tensor, pushed: Tensor) -> Tensor:
    return torch.stack([risk.loss.curvature_product(z, y, row) for row in pushed])


def _pulled(of: Tensor, to: Tensor, V: Tensor, keep: bool) -> Tensor:
    """Vector-Jacobian products ``Vᵀ ∂of/∂to``."""
    several = len(V) > 1
    # materialize_grads forgets the vectors' dimension.
    (rows,) = torch.autograd.grad(
        of,
        to,
        V if several else V[0],
        retain_graph=keep,
        is_grads_batched=several,
        allow_unused=True,
    )
    if rows is None:
        return to.new_zeros(len(V), *to.shape)
    return rows if several else rows.unsqueeze(0)


def _mapped(along: Callable[[Tensor], Tensor], V: Tensor) -> Tensor:
    if len(V) == 1:
        return along(V[0]).unsqueeze(0)
    rows: Tensor = torch.func.vmap(along)(V)
    return rows
