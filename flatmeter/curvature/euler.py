"""Euler's identity as a test of scale invariance: ``θ_b · ∇_b s = 0`` where s ignores b's scale."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from flatmeter.randomness import derived_generator
from flatmeter.risk.cost import GRADIENT
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.epsilon import scale_eps

EPS_FACTOR = 1e-6
"""A normalisation's ε breaks the invariance of a row with little variance by any amount, so that no
threshold is safe at the trained ε; at a millionth of it the identity holds or clearly fails."""


def with_scaled_eps(risk: EmpiricalRisk, factor: float = EPS_FACTOR) -> EmpiricalRisk:
    """The same risk with the ε of every normalisation layer multiplied by ``factor``."""
    other = copy.copy(risk)
    other.module = copy.deepcopy(risk.module)
    scale_eps(other.module, factor)
    return other


def euler_ratios(risk: EmpiricalRisk, blocks: Sequence[Tensor], *, seed: int = 0) -> Tensor:
    """``|θ_b · ∇_b s| / (‖θ_b‖ ‖∇_b s‖)`` for s a random linear function of the outputs.

    Evaluated on a batch of the first samples. The outputs and not the loss, because the loss of a
    saturated network has no gradient to speak of.

    Args:
        risk: the empirical risk, as a rule :func:`with_scaled_eps`.
        blocks: indices into the flat vector.
        seed: of the random function.

    Returns:
        ``[B]`` float64, between 0 and 1; 0 where the gradient or the block is zero.
    """
    risk = risk.at_full_precision()
    x, _ = risk.first_batch()
    gradient = _gradient(risk, x, seed)
    risk.cost.add(GRADIENT * len(x) / risk.n)
    sizes = torch.tensor([len(b) for b in blocks], dtype=torch.long)
    label = torch.arange(len(blocks)).repeat_interleave(sizes).to(risk.device)
    index = torch.cat([b.to(risk.device) for b in blocks])
    w, g = risk.theta.double()[index], gradient.double()[index]

    def sums(values: Tensor) -> Tensor:
        return values.new_zeros(len(blocks)).index_add_(0, label, values)

    return sums(w * g).abs() / (sums(w * w) * sums(g * g)).sqrt().clamp_min(1e-300)


def idle_tensors(risk: EmpiricalRisk) -> frozenset[str]:
    """Names of tensors that the outputs do not depend on: no entry has a gradient on any sample.

    A layer that is never called, one whose result is dropped, or one behind ``detach``.
    """
    live: set[str] = set()
    for x, _ in risk.batches():
        parts = _gradient(risk, x, 0).split(risk.space.sizes)
        live |= {n for n, g in zip(risk.space.names, parts, strict=True) if g.any()}
    risk.cost.add(GRADIENT)
    return frozenset(risk.space.names) - risk.ranks.union(live, risk.space.names)


def _gradient(risk: EmpiricalRisk, x: Tensor, seed: int) -> Tensor:
    """Gradient ``[P]`` of a random linear function of the outputs for a batch."""
    point = risk.theta.clone().requires_grad_()
    z = risk.outputs(point, x)
    signs = torch.randn(z.shape, generator=derived_generator(seed, "euler"), dtype=torch.float64)
    weights = signs.to(z.device, z.dtype)
    (gradient,) = torch.autograd.grad((weights * z).sum(), point, materialize_grads=True)
    return gradient
