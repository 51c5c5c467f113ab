"""BN-sharpness: the mean change of the loss along the sharpest line of scale-invariant weights.

Yi, Zhang, Chen, Ma, Liu 2019 (IJCAI; arXiv 2101.02944) propose to tie the length of a line through
the minimum to the norm of the weights that batch-norm makes scale-invariant, and to integrate the
loss along the sharpest such line. What they publish leaves radius, power and search open; the
definition here is ours and agrees with all of it, but its numbers are not the paper's. With blocks
b such that ``L(…, c θ_b, …) = L`` for all c > 0, and D = diag(‖θ_b‖)::

    ΔL(t) = L(θ + t D v) − L(θ),     ‖v_b‖ = 1 and v_b ⟂ θ_b for every block
    φ(v)  = [ (1/2δ) ∫_{−δ}^{δ} |ΔL(t)|^p dt ]^{1/p},     BN-sharpness = max_v φ(v)

The value is a *lower bound*: the best of several ascents in v. ``converged`` means that the best
ascent has settled (further steps would add less than ``ascent_rtol``), that a second one came
within ``agreement`` of it (different local maxima do occur), that the integral's error is within
``rtol``, and that the changes of the loss stand clear of rounding.

Invariant to: the scale of every block, as far as ε in the normalisation layers is negligible.
Requires: scale-invariant weights, hence batch statistics where they come from batch-norm.
Cost: two gradients for each ascent step, five to twenty steps for each start, and about 30 more.
Not to be trusted: where variances are so small that ε matters, one function has several values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from flatmeter.estimate import Estimate, Why
from flatmeter.measures.ascent import Ascent
from flatmeter.measures.base import Measure, Measurement, MeasureSettings
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense
from flatmeter.measures.invariant_blocks import invariant_blocks
from flatmeter.measures.line_search import LineSearch
from flatmeter.measures.lower_bound import hidden_by_rounding, spread, verdict
from flatmeter.measures.spheres import GeodesicPath, Spheres, StraightPath
from flatmeter.spectral.line_integral import LineIntegral


class Settings(MeasureSettings):
    """Options of BN-sharpness."""

    delta: float = Field(0.05, gt=0, description="half the line's length, in units of the norms")
    p: float = Field(1.0, ge=1, description="power of the change of the loss")
    ball: Literal["product", "joint"] = Field(
        "product", description="norm one in every block, or over all blocks together"
    )
    path: Literal["straight", "geodesic"] = Field(
        "straight", description="straight lines, or great circles of the blocks' spheres"
    )
    steps: int = Field(20, ge=1, description="most ascent steps from each start")
    starts: int = Field(3, ge=1, description="ascents: the first from the gradient, others random")
    nodes: int = Field(8, ge=2, description="nodes on each half of the integral, at first")
    max_nodes: int = Field(64, ge=4, description="and at most")
    ascent_rtol: float = Field(1e-2, gt=0, description="gain still to come at which ascents stop")
    agreement: float = Field(0.2, gt=0, description="most relative distance of the two best starts")


class BNSharpness(Measure):
    """Largest mean change of the loss along a line as long as the weights' norms."""

    name = "bn_sharpness"
    title = "BN-sharpness"
    reference = "Yi, Zhang, Chen, Ma, Liu 2019, arXiv 2101.02944; definition completed by flatmeter"
    invariant_to = ("the scale of every scale-invariant block of weights",)
    requires = ("scale-invariant weights", "batch statistics in batch-norm")
    default_bn = "batch"
    quantities = ("value",)
    Settings = Settings

    def expense(self, columns: int) -> Expense:
        """See the cost above."""
        settings: Settings = self.settings  # type: ignore[assignment]
        steps = [2 * settings.starts * min(settings.steps, n) for n in (5, 20)]
        return Expense(steps[0] + 30, steps[1] + 30, vectors=16)

    def compute(self, context: Context) -> Measurement:
        """Search the sharpest line, then integrate along it."""
        settings: Settings = self.settings  # type: ignore[assignment]
        risk = context.risk.without_weight_decay()
        blocks, notes = invariant_blocks(context, self.title)
        spheres = Spheres(risk.theta, blocks, joint=settings.ball == "joint")
        path = GeodesicPath if settings.path == "geodesic" else StraightPath
        search = LineSearch(risk, spheres, path, settings.delta, settings.p)
        result = sharpest_line(search, settings, context)
        return Measurement(
            quantities={"value": result.estimate()},
            notes=(*notes, *result.notes()),
            state={"starts": np.array(result.starts)},
        )


@dataclass(frozen=True)
class SharpestLine:
    """Where the search ended.

    Args:
        settings: of the measure.
        search: the search.
        starts: φ that each start reached, before the best was polished.
        ascent: of the best start, polished; its values are φ^p.
        integral: φ^p along the best line.
    """

    settings: Settings
    search: LineSearch
    starts: tuple[float, ...]
    ascent: Ascent
    integral: LineIntegral

    @property
    def hidden(self) -> bool:
        """The loss changes by less than the dtype resolves."""
        search = self.search
        return hidden_by_rounding(self.integral.peak, float(search.loss), search.risk.dtype)

    def estimate(self) -> Estimate:
        """φ, and whether it may be relied on."""
        p, integral = self.settings.p, self.integral
        why = verdict(
            hidden=self.hidden,
            settled=self.ascent.settled and integral.converged,
            apart=spread(self.starts),
            agreement=self.settings.agreement,
        )
        value = integral.value ** (1 / p)
        return Estimate(
            value=value,
            residual=value * integral.error / (p * integral.value) if integral.value else 0.0,
            n=len(self.starts),
            converged=why is Why.LOWER_BOUND,
            why=why,
            history=tuple(h ** (1 / p) for h in self.ascent.history),
        )

    def notes(self) -> tuple[str, ...]:
        """How the lower bound was reached, in words."""
        s, value = self.settings, self.ascent.value
        gain = self.ascent.remaining / value if value > 0 else 0.0
        reached = ", ".join(f"{start:.4g}" for start in self.starts)
        notes = (
            f"a lower bound: the starts reached {reached} (the first from the gradient), the two "
            f"best differ by {spread(self.starts):.1%}, further steps would add about {gain:.1%}",
            f"{len(self.search.spheres.blocks)} blocks; δ = {s.delta:g}, p = {s.p:g}, {s.ball} "
            f"ball, {s.path} path, {self.integral.nodes} nodes on each piece",
        )
        hidden = "the loss changes by less than float32 resolves; use --dtype float64"
        return (*notes, hidden) if self.hidden else notes


def sharpest_line(search: LineSearch, settings: Settings, context: Context) -> SharpestLine:
    """Ascend from every start, then polish and integrate the best."""
    reached, values = [], []
    for i in range(settings.starts):
        context.progress(f"BN-sharpness: ascent {i + 1} of {settings.starts}")
        v = search.start(context.generator("bn_sharpness start", i), from_gradient=i == 0)
        climbed = search.climb(v, steps=settings.steps, rtol=settings.ascent_rtol)
        reached.append(climbed.point)
        values.append(search.fine_value(climbed.point))
    context.progress("BN-sharpness: integral")
    best = reached[int(np.argmax(values))]
    ascent = search.polish(best, steps=settings.steps, rtol=settings.ascent_rtol)
    integral = search.integrate(
        ascent.point,
        rtol=context.rtol or 1e-3,
        nodes=settings.nodes,
        max_nodes=settings.max_nodes,
    )
    starts = tuple(value ** (1 / settings.p) for value in values)
    return SharpestLine(settings, search, starts, ascent, integral)
