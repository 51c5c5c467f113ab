"""Gradient norm: how far from a stationary point the trained weights are.

Definition::

    ‖∇L(θ)‖₂

over the data given, weight decay included where the risk has one; per tensor the norm of its part.
Not a measure of sharpness by itself, but every second-order measure is to be read beside it: away
from a stationary point the Hessian depends on the coordinates.

Invariant to: permutations of hidden units, order and batching of the data; not to rescaling.
Requires: a differentiable loss.
Cost: one gradient; one more for the error from measuring on a sample of the data.
Known failure: none; with batch statistics it depends on how the data are split into batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flatmeter.curvature.data_error import DataGroups, norm_errors
from flatmeter.estimate import Estimate
from flatmeter.measures.base import Measure, Measurement, Part
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense
from flatmeter.risk.empirical import EmpiricalRisk


class GradientNorm(Measure):
    """Euclidean norm of the loss's gradient."""

    name = "gradient_norm"
    title = "Gradient norm"
    reference = "definition"
    invariant_to = ("permutations of hidden units",)
    requires = ("a differentiable loss",)
    quantities = ("value",)

    def expense(self, columns: int) -> Expense:
        """See the cost above."""
        return Expense(1, 1, vectors=2)

    def compute(self, context: Context) -> Measurement:
        """One gradient over all the data."""
        risk = context.risk
        context.progress("gradient")
        gradient = risk.gradient()
        norms = risk.space.block_norms(gradient)
        values = [float(norms.norm()), *norms.tolist()]
        estimates = [Estimate.of_exact(value) for value in values]
        groups = DataGroups.of(risk)
        if groups is not None:
            context.progress("gradients of groups of samples")
            errors = _errors(groups, gradient, risk)
            estimates = [e.of_sample(error) for e, error in zip(estimates, errors, strict=True)]
        parts = zip(risk.space.names, estimates[1:], strict=True)
        return Measurement(
            quantities={"value": estimates[0]},
            parts=tuple(Part(name, "value", estimate) for name, estimate in parts),
        )


def _errors(groups: DataGroups, gradient: Tensor, risk: EmpiricalRisk) -> list[float]:
    """From measuring on a sample of the data: of the whole norm, then of every tensor's."""

    def blocks(flat: Tensor) -> Tensor:
        sums = torch.stack([part.sum() for part in flat.split(risk.space.sizes)])
        return torch.cat([sums.sum()[None], sums])

    mean = gradient - risk.weight_decay * risk.theta
    errors: list[float] = norm_errors(
        groups, gradient, mean, lambda part: part.gradient(), blocks
    ).tolist()
    return errors
