"""The ball of perturbations around the trained weights, and the ascent to the loss's maximum."""

from __future__ import annotations

from torch import Tensor

from flatmeter.measures.ascent import Ascent, ascend
from flatmeter.measures.line_search import Line

ANTIPODE = 0.5
"""The point opposite a maximum is climbed from too if its value is this part of the maximum's."""


class Ball:
    """``{θ + c ∘ u : ‖u‖ ≤ ρ}``, in the coordinates u in which it is round.

    Args:
        risk: the loss L.
        theta: ``[P]`` the centre.
        scale: ``[P]`` c, not negative.
        rho: the radius.
        norm: ``l2`` or ``linf``.
    """

    def __init__(self, risk: Line, theta: Tensor, scale: Tensor, rho: float, norm: str) -> None:
        self.risk, self.rho, self.norm = risk, rho, norm
        self.theta, self.scale = theta.detach().double(), scale.double()
        self.loss, gradient = risk.value_and_gradient_tensors(self.theta)
        self.gradient = self.scale * gradient

    def rise(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """``L(θ + c ∘ u) − L(θ)`` and its gradient in u."""
        value, gradient = self.risk.value_and_gradient_tensors(self.theta + self.scale * u)
        return value - self.loss, self.scale * gradient

    def point(self, u: Tensor) -> Tensor:
        """The weights ``θ + c ∘ u [P]`` in the risk's dtype."""
        return (self.theta + self.scale * u).to(self.risk.dtype)

    def even_rise(self, u: Tensor) -> Tensor:
        """Mean of the rises at u and −u: a scalar, to which odd orders do not contribute."""
        up, down = (self.risk.value_tensor(self.point(s * u)) for s in (1, -1))
        return (up + down) / 2 - self.loss

    def extreme(self, direction: Tensor) -> Tensor:
        """The point of the ball that is farthest along ``direction [P]``; the centre for zero."""
        if self.norm == "linf":
            return self.rho * direction.sign()
        unit: Tensor = direction / direction.norm().clamp_min(1e-300)
        return self.rho * unit

    def move(self, u: Tensor, gradient: Tensor, step: float) -> Tensor:
        """A part of the way to the farthest point along the gradient: never leaves the ball."""
        return u + step * (self.extreme(gradient) - u)

    def climb(self, start: Tensor, *, steps: int, rtol: float) -> Ascent:
        """The better of the maxima reached from ``start [P]`` and from opposite that one.

        The quadratic part of the loss is the same on both sides, so maxima come in pairs, and only
        the higher of a pair is of use.
        """
        near = ascend(self.rise, self.move, start, steps=steps, rtol=rtol)
        value, _ = self.rise(-near.point)
        if float(value) < ANTIPODE * near.value:
            return near
        far = ascend(self.rise, self.move, -near.point, steps=steps, rtol=rtol)
        return max(near, far, key=lambda ascent: ascent.value)
