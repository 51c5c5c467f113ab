"""Adaptive sharpness: how much the loss rises when the weights are perturbed in proportion.

With a scale ``c > 0`` for every parameter and the whole data set as the one batch (average- and
worst-case sharpness of Andriushchenko, Croce, Müller, Hein, Flammarion 2023, arXiv 2302.07011)::

    average = E_{δ ~ N(0, ρ_a² diag(c²))} L(w + δ) − L(w)
    worst   = max_{‖δ / c‖ ≤ ρ} L(w + δ) − L(w)

- ``radius: adaptive``, c_i = |w_i|: the element-wise operator T_w of ASAM (Kwon, Kim, Park, Choi
  2021, arXiv 2102.11600), for every parameter, biases and normalisation layers included.
- ``radius: layer``, c = ‖w_l‖ / sqrt(n_l) for the n_l entries of tensor l: one radius per tensor,
  in which the root brings ρ to the scale of the other two.
- ``radius: standard``, c = 1 (Keskar et al. 2017, in absolute terms). Choose ρ yourself.

``average`` takes antithetic pairs ±δ and subtracts, by regression, the part that is quadratic in
the direction of the worst case, which has known expectation and most of the variance. ``worst`` is
a *lower bound*, the best of several ascents; it is ``converged`` when the best has settled (further
steps would add less than ``ascent_rtol``) and another start came within ``agreement`` of it.
Weight decay is left out, because it is not invariant.

Invariant to: ``adaptive``, every rescaling of single weights that leaves the network's function as
it is, channel by channel too; ``layer``, the scaling symmetries of tensors; ``standard``, neither.
Cost: a gradient for each of three to ten steps from each start, and two losses for each draw.
Not to be trusted: across networks of different size, as the average grows with the number of
weights; where a weight is exactly zero, which ``adaptive`` never moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from flatmeter.curvature.data_error import DataGroups
from flatmeter.estimate import Estimate, Why
from flatmeter.measures.ascent import Ascent
from flatmeter.measures.ball import Ball
from flatmeter.measures.base import Measure, Measurement, MeasureSettings
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense
from flatmeter.measures.lower_bound import hidden_by_rounding, spread, verdict
from flatmeter.risk.cost import FORWARD
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.controlled_mean import controlled, controlled_mean

Floats = NDArray[np.float64]
Radius = Literal["adaptive", "layer", "standard"]

WORST_RHO = {"l2": 0.5, "linf": 0.01}
"""ASAM's radius for CIFAR-10, and one at which the two norms give values of a similar size."""


class Settings(MeasureSettings):
    """Options of adaptive sharpness."""

    radius: Radius = Field("adaptive", description="scale c: |w_i|, ‖w_l‖/sqrt(n_l), or 1")
    norm: Literal["l2", "linf"] = Field("l2", description="norm of δ/c in the worst case")
    rho: float | None = Field(
        None, gt=0, description="radius of the worst case; by default 0.5 for l2, 0.01 for linf"
    )
    rho_average: float = Field(0.05, gt=0, description="standard deviation ρ_a of δ/c")
    rtol: float = Field(
        0.25, gt=0, description="half-width of the average's interval; --rtol comes first"
    )
    samples: int = Field(256, ge=3, description="most antithetic pairs of draws")
    steps: int = Field(20, ge=1, description="most ascent steps from each start")
    starts: int = Field(3, ge=1, description="ascents: the first from the gradient, others random")
    ascent_rtol: float = Field(1e-2, gt=0, description="gain still to come at which ascents stop")
    agreement: float = Field(0.2, gt=0, description="most relative distance of the two best starts")


class AdaptiveSharpness(Measure):
    """Average and worst rise of the loss under perturbations in proportion to the weights."""

    name = "adaptive_sharpness"
    title = "Adaptive sharpness"
    reference = "Kwon et al. 2021, arXiv 2102.11600; Andriushchenko et al. 2023, arXiv 2302.07011"
    invariant_to = ("rescaling of single weights", "of tensors only with radius=layer")
    requires = ("first derivatives",)
    default_bn = "eval"
    quantities = ("average", "worst")
    effort = ("rtol", "samples")
    Settings = Settings

    def expense(self, columns: int) -> Expense:
        """See the cost above."""
        settings: Settings = self.settings  # type: ignore[assignment]
        steps = [settings.starts * min(settings.steps, n) for n in (3, 10)]
        losses = [2 * FORWARD * min(settings.samples, n) for n in (16, 64)]
        return Expense(steps[0] + losses[0], steps[1] + losses[1], vectors=16)

    def compute(self, context: Context) -> Measurement:
        """The worst case first: its direction makes the average's draws say more."""
        settings: Settings = self.settings  # type: ignore[assignment]
        risk = context.risk.without_weight_decay()
        rho = settings.rho or WORST_RHO[settings.norm]
        ball = Ball(risk, risk.theta, scales(risk, settings.radius), rho, settings.norm)
        ascents = climb_all(ball, settings, context)
        worst = worst_estimate(ball, ascents, settings)
        rises = GroupRises.of(ball, risk)
        if rises is not None:
            worst = worst.of_sample(rises.stderr(rises.at(ascents[0].point)))
        average, state = average_estimate(ball, ascents, settings, context, rises)
        return Measurement(
            quantities={"average": average, "worst": worst},
            notes=_notes(ball, ascents, settings),
            state={**state, "starts": np.array([a.value for a in ascents])},
        )


def scales(risk: EmpiricalRisk, radius: Radius) -> Tensor:
    """The scale c of every parameter: ``[P]`` float64."""
    theta = risk.theta.double()
    if radius == "adaptive":
        return theta.abs()
    if radius == "standard":
        return torch.ones_like(theta)
    sizes = torch.tensor(risk.space.sizes, device=theta.device)
    return risk.space.spread(risk.space.block_norms(theta) / sizes.sqrt())


def climb_all(ball: Ball, settings: Settings, context: Context) -> list[Ascent]:
    """Ascents from the gradient and from random points of the ball's surface, the best first."""
    ascents = []
    for i in range(settings.starts):
        context.progress(f"adaptive sharpness: ascent {i + 1} of {settings.starts}")
        noise = torch.randn(len(ball.theta), generator=context.generator("adaptive start", i))
        uphill = i == 0 and bool(ball.gradient.any())
        start = ball.extreme(ball.gradient if uphill else noise.to(ball.theta))
        ascents.append(ball.climb(start, steps=settings.steps, rtol=settings.ascent_rtol))
    return sorted(ascents, key=lambda ascent: -ascent.value)


def worst_estimate(ball: Ball, ascents: list[Ascent], settings: Settings) -> Estimate:
    """The best ascent, and whether it may be relied on."""
    best = ascents[0]
    why = verdict(
        hidden=hidden_by_rounding(best.value, float(ball.loss), ball.risk.dtype),
        settled=best.settled,
        apart=spread([ascent.value for ascent in ascents]),
        agreement=settings.agreement,
    )
    return Estimate(
        value=best.value,
        n=len(ascents),
        converged=why is Why.LOWER_BOUND,
        why=why,
        history=best.history,
    )


@dataclass(frozen=True)
class GroupRises:
    """Rises of the loss in groups of samples, where these are a sample of the data.

    Args:
        ball: of perturbations.
        groups: of the samples.
        losses: ``[G]`` sums of the losses at its centre.
    """

    ball: Ball
    groups: DataGroups
    losses: Tensor

    @classmethod
    def of(cls, ball: Ball, risk: EmpiricalRisk) -> GroupRises | None:
        """At the centre; ``None`` where all data are measured."""
        groups = DataGroups.of(risk)
        if groups is None:
            return None
        return cls(ball, groups, groups.losses(ball.theta.to(risk.dtype)))

    def at(self, u: Tensor) -> Tensor:
        """Sums of the rises at ``u [P]``: ``[G]``."""
        return self.groups.losses(self.ball.point(u)) - self.losses

    def even(self, u: Tensor) -> Tensor:
        """Mean of the sums at u and −u: ``[G]``."""
        return (self.at(u) + self.at(-u)) / 2

    def stderr(self, sums: Tensor) -> float:
        """Standard error of their mean over the samples."""
        return float(self.groups.stderr(sums))


def average_estimate(
    ball: Ball,
    ascents: list[Ascent],
    settings: Settings,
    context: Context,
    rises: GroupRises | None,
) -> tuple[Estimate, dict[str, Floats]]:
    """The mean over Gaussian perturbations, and its state.

    That is values and controls of the draws, ``[n, 2]``, and what each sees in every group of
    samples, ``[n, G]``.
    """
    worst = ascents[0].point
    direction = worst / worst.norm().clamp_min(1e-300)
    shares: list[Tensor] = []
    earlier = context.saved.get("draws", np.zeros((0, 2)))
    earlier_shares = context.saved.get("shares", np.zeros((0, 0)))
    if rises is not None and len(earlier_shares) < len(earlier):
        earlier = earlier[:0]  # made without groups of samples

    def draw(i: int) -> tuple[float, float]:
        if i < len(earlier):
            shares.extend(torch.from_numpy(row) for row in earlier_shares[i : i + 1])
            return float(earlier[i, 0]), float(earlier[i, 1])
        noise = torch.randn(len(direction), generator=context.generator("adaptive draw", i))
        z = noise.to(direction)
        if rises is None:
            rise = ball.even_rise(settings.rho_average * z)
        else:
            shares.append(rises.even(settings.rho_average * z))
            rise = rises.groups.mean(shares[-1])
        return float(rise), float(direction @ z) ** 2 - 1

    estimate, draws = controlled_mean(
        draw,
        rtol=context.rtol or settings.rtol,
        confidence=context.confidence,
        max_draws=settings.samples,
        progress=context.progress,
    )
    state = {"draws": draws}
    if rises is not None:
        state["shares"] = torch.stack(shares).numpy()
        if len(draws) > 2:
            # The same regression for every group: what the draws have in common falls out.
            controls = draws[:, 1].tolist()
            means = [controlled(row, controls)[0] for row in state["shares"].T]
            estimate = estimate.of_sample(rises.stderr(torch.tensor(means, dtype=torch.float64)))
    return estimate, state


def _notes(ball: Ball, ascents: list[Ascent], settings: Settings) -> tuple[str, ...]:
    reached = ", ".join(f"{ascent.value:.4g}" for ascent in ascents)
    notes = (
        f"worst is a lower bound: {len(ascents)} starts reached {reached}",
        f"{settings.radius} radius; worst: ρ = {ball.rho:g} in {settings.norm}; average: ρ = "
        f"{settings.rho_average:g} for each weight",
    )
    hidden = hidden_by_rounding(ascents[0].value, float(ball.loss), ball.risk.dtype)
    text = "the loss changes by less than float32 resolves; use --dtype float64"
    return (*notes, text) if hidden else notes
