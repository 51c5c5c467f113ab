"""Gradient norm: how far from a stationary point the trained weights are.

Definition::

    ‖∇L(θ)‖₂

over the data given, weight decay included where the risk has one; per tensor the norm of its part.
Not a measure of sharpness by itself, but every second-order measure is to be read beside it: away
from a stationary point the Hessian depends on the coordinates.

Invariant to: permutations of hidden units, order and batching of the data; not to rescaling.
Requires: a differentiable loss.
Cost: one gradient.
Known failure: none; with batch statistics it depends on how the data are split into batches.
"""

from __future__ import annotations

from flatmeter.estimate import Estimate
from flatmeter.measures.base import Measure, Measurement, Part
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense


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
        parts = zip(risk.space.names, norms.tolist(), strict=True)
        return Measurement(
            quantities={"value": Estimate.of_exact(float(norms.norm()))},
            parts=tuple(Part(name, "value", Estimate.of_exact(norm)) for name, norm in parts),
        )
