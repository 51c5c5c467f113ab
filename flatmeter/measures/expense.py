"""What a measure usually costs, for the plan."""

from __future__ import annotations

from dataclasses import dataclass

from flatmeter.risk.cost import ACTIVATION_BACKWARD, FORWARD, GRADIENT, PRODUCT


@dataclass(frozen=True)
class Expense:
    """The usual range of a measure's cost: a guide, not a bound.

    Args:
        low, high: in gradients over all the data.
        vectors: most vectors as long as the parameters that it holds at once.
    """

    low: float
    high: float
    vectors: int = 0

    @classmethod
    def of_lanczos(cls, low: int, high: int, cap: int, runs: int = 1) -> Expense:
        """For Lanczos runs that keep the graphs of products.

        Args:
            low: fewest products that they usually take together.
            high: and most.
            cap: most products that they may take together.
            runs: their number.
        """
        low, high = min(low, cap), min(high, cap)
        return cls(PRODUCT * low + runs * GRADIENT, PRODUCT * high + runs * GRADIENT, high // runs)

    def plus(self, other: Expense) -> Expense:
        """Of both, one after the other."""
        vectors = max(self.vectors, other.vectors)
        return Expense(self.low + other.low, self.high + other.high, vectors)


def exact_traces(columns: int) -> Expense:
    """Of layer traces in closed form: a forward pass, and one backward pass for each column.

    Args:
        columns: of the output's curvature, the number of classes less one.
    """
    cost = FORWARD + ACTIVATION_BACKWARD * columns
    return Expense(cost, cost)
