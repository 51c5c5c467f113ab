"""Spherical sharpness: the Hessian's largest eigenvalue, freed of the scale of the weights.

Definition (Lyu, Li, Arora 2022, arXiv 2206.07085): for weights w with ``L(c w) = L(w)``::

    λ_sph = λ_1(∇²L(w / ‖w‖)) = ‖w‖² λ_1(∇²L(w))

By the second form the weights are never moved to the sphere, where ε in the normalisation layers
would weigh differently. With H restricted to the scale-invariant weights, the others held fixed:

- ``block``: λ_1(D H D), D = diag(‖θ_b‖) over the smallest scale-invariant blocks b (a filter before
  batch-norm, a whole layer before layer-norm). It is what compares checkpoints.
- ``global``: ‖w‖² λ_1(H), the paper's, w being all scale-invariant weights together.
- ``tangent``: ‖w‖² λ_1(P H P), P = I − w wᵀ/‖w‖²: along the sphere only.
- ``raw``: λ_1 of the Hessian in all parameters, for comparison.
- ``eos_ratio``: ``η̃ λ_sph / (2 (1 + β))`` with ``η̃ = η / ((1 − ηλ) ‖w‖²)``, learning rate η, weight
  decay λ, momentum β: about 1 at the edge of stability. Only reported where --lr gives η.

``converged`` is Lanczos's: a certified relative error within ``rtol``, and a small residual. The
tolerance is 1e-4 by default, more where rounding in the products forbids it.

Invariant to: ``block``, the scale of every block; ``global`` and ``tangent``, only the common scale
of all of them, *not* that of single filters; ``raw``, neither.
Requires: scale-invariant weights, hence batch statistics where they come from batch-norm.
Cost: 25 to 60 Hessian products.
Not to be trusted: where ε matters; the notes say what the value would be without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor

from flatmeter.curvature.data_error import DataGroups
from flatmeter.curvature.euler import with_scaled_eps
from flatmeter.curvature.products import HessianOperator
from flatmeter.estimate import Estimate
from flatmeter.measures.base import Measure, Measurement, MeasureSettings
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense
from flatmeter.measures.invariant_blocks import invariant_blocks
from flatmeter.measures.spheres import Spheres
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.lanczos import lanczos
from flatmeter.spectral.operator import Operator, Projected, Restricted, Scaled
from flatmeter.spectral.ritz import attainable


class Settings(MeasureSettings):
    """Options of spherical sharpness."""

    momentum: float = Field(0.0, ge=0, lt=1, description="the optimiser's, for eos_ratio")
    max_products: int = Field(
        400, ge=4, description="most Hessian products; --max-products comes first"
    )


class SphericalSharpness(Measure):
    """Largest eigenvalue of the Hessian, times the square of the scale-invariant weights' norm."""

    name = "spherical_sharpness"
    title = "Spherical sharpness"
    reference = "Lyu, Li, Arora 2022, arXiv 2206.07085"
    invariant_to = ("block: the scale of every scale-invariant block", "global: their common scale")
    requires = ("scale-invariant weights", "batch statistics in batch-norm", "second derivatives")
    default_bn = "batch"
    quantities = ("block", "global", "tangent", "raw", "eos_ratio")
    Settings = Settings

    def expense(self, columns: int) -> Expense:
        """See the cost above."""
        settings: Settings = self.settings  # type: ignore[assignment]
        return Expense.of_lanczos(40, 80, settings.max_products, runs=4)

    def compute(self, context: Context) -> Measurement:
        """Four Lanczos runs, and checks of what they stand on."""
        settings: Settings = self.settings  # type: ignore[assignment]
        risk = context.risk.without_weight_decay()
        blocks, notes = invariant_blocks(context, self.title)
        spheres = Spheres(risk.theta, blocks)
        size = float(spheres.radii.square().sum())

        whole = HessianOperator(risk)
        invariant = Restricted(whole, spheres.index)
        radius = spheres.radius.to(risk.dtype)
        rtol = context.rtol or attainable(1e-4, whole.noise)
        runs = Runs(context, rtol, context.max_products or settings.max_products)
        block, x = runs.top("block", Scaled(invariant, radius))
        single, v = runs.top("global", invariant)
        along, u = runs.top_below("tangent", _on_sphere(invariant, risk, spheres), single, v)
        raw, y = runs.top("raw", whole)
        found = (block, single, along, raw)
        vectors = [*(spheres.padded(part, risk.space.dim) for part in (radius * x, v, u)), y]
        block, single, along, raw = with_data_errors(risk, found, torch.stack(vectors))

        quantities = {
            "block": block,
            "global": single.scaled(size),
            "tangent": along.scaled(size),
            "raw": raw,
        }
        ratio, remark = eos_ratio(single, context, settings.momentum)
        checks = self_checks(risk, spheres, single.value, block.value, radius * x)
        return Measurement(quantities={**quantities, **ratio}, notes=(*notes, *checks, remark))


@dataclass
class Runs:
    """Lanczos runs that share a budget of products.

    Args:
        context: of the measure.
        rtol: relative tolerance.
        budget: products left.
    """

    context: Context
    rtol: float
    budget: int
    spent: int = field(default=0, init=False)

    def top(self, name: str, op: Operator, start: Tensor | None = None) -> tuple[Estimate, Tensor]:
        """The largest eigenvalue of ``op`` and its vector.

        Without a start from another operator: that would converge sooner, but often to an
        eigenvalue below the largest, whose vector it leaves no time to grow.
        """
        spectrum = lanczos(
            op,
            which="largest",
            rtol=self.rtol,
            max_products=max(1, self.budget - self.spent),
            start=start,
            seed=self.context.seed,
            progress=lambda text: self.context.progress(f"{name}: {text}"),
        )
        self.spent += spectrum.products
        return spectrum.estimate_largest(), spectrum.vectors_largest[0]

    def top_below(
        self, name: str, op: Operator, bound: Estimate, near: Tensor
    ) -> tuple[Estimate, Tensor]:
        """The same for a projection of an operator whose own largest eigenvalue is known.

        It is at most that one, so a start near that one's vector is safe where it reaches it.
        """
        found, vector = self.top(name, op, near)
        if found.value >= bound.value - self.rtol * abs(bound.value):
            return found, vector
        return self.top(name, op)


def _on_sphere(op: Operator, risk: EmpiricalRisk, spheres: Spheres) -> Operator:
    """``P A P`` with P along the sphere of all blocks together."""
    w = risk.theta[spheres.index]
    return Projected(op, (w / w.norm())[None])


def with_data_errors(risk: EmpiricalRisk, found: Sequence[Estimate], V: Tensor) -> list[Estimate]:
    """Eigenvalues with their errors from measuring on a sample of the data.

    Args:
        risk: the empirical risk.
        found: the eigenvalues ``vᵀ H v``.
        V: their vectors, ``[k, P]``.
    """
    groups = DataGroups.of(risk)
    if groups is None:
        return list(found)
    errors = groups.stderr(groups.forms(V)).tolist()
    return [e.of_sample(error) for e, error in zip(found, errors, strict=True)]


def eos_ratio(top: Estimate, context: Context, momentum: float) -> tuple[dict[str, Estimate], str]:
    """``η̃ λ_sph / (2 (1 + β))`` where the learning rate is known, and a remark.

    Args:
        top: λ_1 of the Hessian in the scale-invariant weights; the norm cancels.
        context: with the optimiser's settings.
        momentum: β.
    """
    if context.lr is None:
        return {}, "no eos_ratio: it needs the learning rate, see --lr"
    decay = context.training_weight_decay or 0.0
    factor = context.lr / (1 - context.lr * decay) / (2 * (1 + momentum))
    assumed = "" if context.training_weight_decay is not None else " (assumed)"
    remark = f"eos_ratio: η = {context.lr:g}, λ = {decay:g}{assumed}, β = {momentum:g}"
    return {"eos_ratio": top.scaled(factor)}, remark


def self_checks(
    risk: EmpiricalRisk, spheres: Spheres, top: float, block: float, v: Tensor
) -> tuple[str, ...]:
    """Whether the identities of scale invariance hold, and how much ε matters to loss and value.

    Args:
        risk: the empirical risk.
        spheres: the scale-invariant blocks.
        top: λ_1(H), the scale of the second identity.
        block: λ_1(D H D).
        v: ``[m]`` D times its vector of norm one.
    """
    loss, gradient = risk.value_and_gradient()
    w, g = risk.theta[spheres.index], gradient[spheres.index]
    image = Restricted(HessianOperator(risk), spheres.index).matmat(w[None])[0]
    first = _ratio(float((w @ g).abs()), float(w.norm() * g.norm()))
    second = _ratio(float((image + g).norm()), abs(top) * float(w.norm()))
    ideal = with_scaled_eps(risk)
    curved = Restricted(HessianOperator(ideal), spheres.index).matmat(v[None])[0]
    without = _ratio(float(v.double() @ curved.double()) - block, block)
    shift = _ratio(ideal.value() - loss, loss)
    return (
        f"self-checks, 0 but for ε and rounding: w·∇L / (‖w‖‖∇L‖) = {first:.1g}, "
        f"‖Hw + ∇L‖ / (λ_1(H)‖w‖) = {second:.1g}",
        f"{len(spheres.blocks)} blocks; with a millionth of ε the loss changes by {shift:.1g} and "
        f"block by {without:.1g} of its value",
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
