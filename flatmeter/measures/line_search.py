"""The search for the line along which the loss changes most, on average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatmeter.measures.ascent import Ascent, ascend
from flatmeter.measures.spheres import Spheres, StraightPath
from flatmeter.spectral.line_integral import LineIntegral, half_rule, mean_power

Rule = tuple[tuple[float, float], ...]

COARSE_PLACE = 0.8
"""Where on each half the coarse rule looks: ΔL grows like t² there, so its weight lies far out."""

FINE_NODES = 3


class Line(Protocol):
    """What is needed of a risk: its dtype, and values and gradients in float64."""

    dtype: torch.dtype

    def value_tensor(self, flat: Tensor) -> Tensor:
        """L at ``flat [P]`` of that dtype."""
        ...

    def value_and_gradient_tensors(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """L and ∇L ``[P]`` at ``flat [P]``."""
        ...


class LineSearch:
    """``φ(v)^p = (1/2δ) ∫ |L(γ_v(t)) − L(θ)|^p dt`` and the ascent to its maximum in v.

    An ascent takes two gradients a step while it looks at one place on each half of the line, and
    six once it has settled there and only :meth:`polish` is left to do.

    Args:
        risk: the loss L.
        spheres: the blocks that move, and the point θ.
        path: of lines γ_v.
        delta: half their length.
        p: power.
    """

    def __init__(
        self, risk: Line, spheres: Spheres, path: type[StraightPath], delta: float, p: float
    ) -> None:
        self.risk, self.spheres, self.path, self.delta, self.p = risk, spheres, path, delta, p
        self.loss, self.gradient = risk.value_and_gradient_tensors(spheres.theta)
        self.coarse: Rule = ((-COARSE_PLACE * delta, 0.5), (COARSE_PLACE * delta, 0.5))
        rules = (half_rule(FINE_NODES, -delta, 0.0), half_rule(FINE_NODES, 0.0, delta))
        self.fine: Rule = tuple(
            (float(t), float(w) / (2 * delta)) for rule in rules for t, w in zip(*rule, strict=True)
        )

    def objective(self, v: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        """φ^p at ``v [m]`` by nodes and weights, and its gradient in v."""
        path, p = self.path(self.spheres, v), self.p
        value, gradient = torch.zeros_like(self.loss), torch.zeros_like(v)
        for t, weight in rule:
            loss, slope = self.risk.value_and_gradient_tensors(path(t))
            change = loss - self.loss
            value += weight * change.abs() ** p
            outer = weight * p * change.abs() ** (p - 1) * change.sign()
            gradient += outer * path.pull(t, slope)
        return value, gradient

    def move(self, v: Tensor, gradient: Tensor, step: float) -> Tensor:
        """A part of the way to the normalised gradient; a block without gradient stays."""
        target = self.spheres.direction(gradient, v)
        return target if step == 1.0 else self.spheres.direction(v + step * (target - v), v)

    def start(self, generator: torch.Generator, *, from_gradient: bool) -> Tensor:
        """A random direction ``[m]``, or ∇L normalised in every block where it is not zero."""
        index = self.spheres.index
        noise = torch.randn(len(index), generator=generator, dtype=torch.float64)
        random = self.spheres.direction(noise.to(index.device), torch.zeros_like(self.spheres.unit))
        if not from_gradient:
            return random
        return self.spheres.direction(self.gradient[index], random)

    def climb(self, start: Tensor, *, steps: int, rtol: float) -> Ascent:
        """Ascend by the coarse rule."""
        objective = lambda v: self.objective(v, self.coarse)  # noqa: E731
        return ascend(objective, self.move, start, steps=steps, rtol=rtol)

    def polish(self, start: Tensor, *, steps: int, rtol: float) -> Ascent:
        """Ascend by the fine rule, whose value is φ^p to better than a percent."""
        objective = lambda v: self.objective(v, self.fine)  # noqa: E731
        return ascend(objective, self.move, start, steps=steps, rtol=rtol)

    def fine_value(self, v: Tensor) -> float:
        """φ^p at ``v [m]`` by the fine rule."""
        changes = np.abs(self.changes(v, [t for t, _ in self.fine])) ** self.p
        return float(changes @ np.array([w for _, w in self.fine]))

    def changes(self, v: Tensor, times: Sequence[float]) -> NDArray[np.float64]:
        """ΔL at several places along the line: ``[k]``."""
        path = self.path(self.spheres, v)
        losses = [self.risk.value_tensor(path(t).to(self.risk.dtype)) for t in times]
        return (torch.stack(losses) - self.loss).cpu().numpy()

    def integrate(self, v: Tensor, *, rtol: float, nodes: int, max_nodes: int) -> LineIntegral:
        """φ^p at ``v [m]``, with its error."""
        evaluate = lambda times: self.changes(v, times)  # noqa: E731
        return mean_power(evaluate, self.delta, self.p, rtol=rtol, nodes=nodes, max_nodes=max_nodes)
