"""What was spent, in gradients of the whole data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

#: Nominal arithmetic of each kind of work over the data, in gradients (forward and backward).
FORWARD = 1 / 3
GRADIENT = 1.0
ACTIVATION_BACKWARD = 1 / 3
PRODUCT = 2.0


@dataclass
class Cost:
    """A running count.

    Args:
        gradient_equivalents: nominal arithmetic in units of one gradient over all the data.
        products: curvature-vector products over all the data.
    """

    gradient_equivalents: float = 0.0
    products: float = 0.0

    def add(self, gradients: float, *, products: float = 0.0) -> None:
        """Count work; a part of the data counts as that fraction."""
        self.gradient_equivalents += gradients
        self.products += products

    def snapshot(self) -> Cost:
        """A copy, to take differences from."""
        return replace(self)
