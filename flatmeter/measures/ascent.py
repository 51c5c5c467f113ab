"""Ascent to a local maximum, which is a lower bound on the maximum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_STEP = 1 / 64
"""An ascent whose step was halved below this without gain has reached its maximum."""


@dataclass(frozen=True)
class Ascent:
    """Where an ascent from one start ended.

    Args:
        value: the largest value met.
        point: where.
        history: the value at the start and after every accepted step.
        remaining: what further steps would add, by extrapolation from the last two.
        settled: that is within the tolerance.
    """

    value: float
    point: Tensor
    history: tuple[float, ...]
    remaining: float
    settled: bool


def ascend(
    objective: Callable[[Tensor], tuple[Tensor, Tensor]],
    move: Callable[[Tensor, Tensor, float], Tensor],
    start: Tensor,
    *,
    steps: int,
    rtol: float,
) -> Ascent:
    """Climb with full steps, halving the step where the value falls.

    On a sphere or a ball a full step goes to the maximiser of the linearised objective, which is
    the power method when the objective is quadratic, and never falls when it is convex.

    Args:
        objective: value (a scalar) and gradient at a point.
        move: the feasible point that a step of a length in (0, 1] along a gradient leads to.
        start: a feasible point.
        steps: most evaluations after the first.
        rtol: relative gain, extrapolated over all further steps, at which to stop.
    """
    point, step, remaining, settled = start, 1.0, float("inf"), False
    value, gradient = _evaluated(objective, start)
    history = [value]
    for _ in range(steps):
        trial = move(point, gradient, step)
        trial_value, trial_gradient = _evaluated(objective, trial)
        if trial_value > value:
            point, value, gradient = trial, trial_value, trial_gradient
            history.append(value)
            remaining, step = _remaining(history), min(1.0, 2 * step)
            settled = remaining <= rtol * abs(value)
        else:
            step /= 2
            settled = step < SMALLEST_STEP
            remaining = 0.0 if settled else remaining
        if settled:
            break
    return Ascent(value, point, tuple(history), remaining, settled)


def _evaluated(
    objective: Callable[[Tensor], tuple[Tensor, Tensor]], point: Tensor
) -> tuple[float, Tensor]:
    value, gradient = objective(point)
    number = float(value)
    return (number if torch.isfinite(value) else -float("inf")), gradient


def _remaining(history: list[float]) -> float:
    """Aitken's extrapolation: gains that shrink by a factor q add up to ``gain · q/(1 − q)``.

    Infinite until two gains have shrunk: those on the way out of a saddle are small, and grow.
    """
    if len(history) < 3:
        return float("inf")
    before, gain = history[-2] - history[-3], history[-1] - history[-2]
    return gain * gain / (before - gain) if gain < before else float("inf")
