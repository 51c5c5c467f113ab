"""The softmax loss of margins, with derivatives that keep their digits in a confident network.

Those of ``log_softmax`` contain ``p_y − 1``, which rounds to zero where the network is sure, and
takes up to half of every eigenvalue with it. Here each derivative is a formula without such a
difference, which also takes fewer operators than differentiating the loss twice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


def margin_loss(z: Tensor, label: Tensor) -> Tensor:
    """``log(1 + Σ_{j≠y} exp(z_j − z_y))`` of logits ``[…, K]`` and labels ``[…, 1]``: ``[…]``.

    Differentiable as often as one likes backwards, and forwards once, before or after that: PyTorch
    takes the second of two forward derivatives of a custom function for zero.
    """
    losses: Tensor = _Loss.apply(z, label)  # type: ignore[no-untyped-call]
    return losses


def softmax_product(z: Tensor, v: Tensor) -> Tensor:
    """``(diag(p) − p pᵀ) v`` over the last dimension, ``p = softmax(z)``.

    By the differences to the most likely class c, ``d = v − v_c``, as ``p ∘ (d − p·d)``: exact to
    rounding relative to what is left where ``p_c`` is 1 but for rounding.
    """
    p = torch.softmax(z, -1)
    d = v - v.gather(-1, z.argmax(-1, keepdim=True))
    return p * (d - (p * d).sum(-1, keepdim=True))


class _Loss(Function):
    """The loss; its derivative is :class:`_Slope`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, label: Tensor) -> Tensor:
        margins = (z - z.gather(-1, label)).scatter(-1, label, -torch.inf)
        return F.softplus(torch.logsumexp(margins, -1), threshold=50.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        z, label = ctx.saved_tensors
        return _slope(z, label) * g.unsqueeze(-1), None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, _: Any) -> Tensor:
        z, label = ctx.saved_tensors
        return (_slope(z, label) * t).sum(-1)


def _slope(z: Tensor, label: Tensor) -> Tensor:
    slope: Tensor = _Slope.apply(z, label)  # type: ignore[no-untyped-call]
    return slope


class _Slope(Function):
    """``p − e_y``, the entry of the label as minus the sum of the others."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, label: Tensor) -> Tensor:
        others = torch.softmax(z, -1).scatter(-1, label, 0.0)
        return others.scatter(-1, label, -others.sum(-1, keepdim=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return softmax_product(ctx.saved_tensors[0], g), None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, _: Any) -> Tensor:
        return softmax_product(ctx.saved_tensors[0], t)
