"""The density of the Hessian's eigenvalues, and what it says in a few numbers.

Definition: of the eigenvalues λ_1 … λ_P of H = ∇²L(θ), weight decay included where there is one::

    ‖H‖_F = sqrt(Σ λ_i²),   effective rank (Tr H)² / ‖H‖_F²,
    the shares of eigenvalues below −t and above t,  t = threshold · max |λ_i|

The curve itself, ``(1/P) Σ_i N(x; λ_i, σ²)`` as in Ghorbani, Krishnan and Xiao (2019, arXiv
1901.10159) and Papyan (2018, arXiv 1811.07062), is in the state.

Lanczos resolves the outermost eigenvalues; stochastic Lanczos quadrature sees the others. Each
quantity carries the spread over the random vectors and, for the shares, what a Gauss rule of that
many nodes leaves open.

Invariant to: permutations of hidden units; *not* to rescaling (see hessian_eigenvalues).
Requires: a loss and a network with second derivatives.
Cost: five times ``steps`` Hessian products, 200 by default, and more where four random vectors do
not suffice; two vectors of memory for each of the ``steps``.
Known failure: the piecewise linear parts of a network contribute no curvature across their kinks.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from flatmeter.curvature.products import HessianOperator
from flatmeter.estimate import Estimate
from flatmeter.measures.base import Measure, Measurement, MeasureSettings
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense
from flatmeter.risk.cost import PRODUCT
from flatmeter.spectral.density import MIN_PROBES, Density, Quadrature, density
from flatmeter.spectral.summary import Summary, decades


class Settings(MeasureSettings):
    """Options of the Hessian's density."""

    steps: int = Field(40, ge=2, description="Lanczos steps per random vector: the resolution")
    threshold: float = Field(
        1e-3, ge=0, lt=1, description="part of the largest magnitude up to which one counts as zero"
    )
    max_products: int = Field(
        1000, ge=10, description="most Hessian products; --max-products comes first"
    )


class HessianDensity(Measure):
    """Density of the Hessian's eigenvalues, its Frobenius norm and effective rank."""

    name = "hessian_density"
    title = "Hessian density"
    reference = "Ghorbani, Krishnan, Xiao 2019, arXiv 1901.10159; Papyan 2018, arXiv 1811.07062"
    invariant_to = ("permutations of hidden units",)
    requires = ("second derivatives",)
    on_request = True
    effort = ("max_products",)
    quantities = ("frobenius_norm", "effective_rank", "negative_share", "positive_share")
    Settings = Settings

    def expense(self, columns: int) -> Expense:
        """See the cost above."""
        settings: Settings = self.settings  # type: ignore[assignment]
        least = PRODUCT * (MIN_PROBES + 1) * settings.steps
        most = max(least, PRODUCT * settings.max_products)
        return Expense(least, most, vectors=2 * settings.steps)

    def compute(self, context: Context) -> Measurement:
        """One density, and numbers made from it."""
        settings: Settings = self.settings  # type: ignore[assignment]
        operator = HessianOperator(context.risk)
        budget = max(context.max_products or settings.max_products, 2 * (MIN_PROBES + 1))
        rtol = context.rtol or 0.01
        steps = min(settings.steps, budget // (MIN_PROBES + 1))
        found = density(
            operator,
            steps=steps,
            rtol=rtol,
            confidence=context.confidence,
            max_products=budget,
            seed=context.seed,
            quadrature=_known(context, min(steps, operator.dim)),
            progress=context.progress,
        )
        summary = Summary(found, rtol=rtol, confidence=context.confidence, noise=operator.noise)
        return Measurement(
            quantities=_quantities(summary, settings.threshold),
            state={**_state(found, context.confidence), **_histogram(summary)},
        )


def _known(context: Context, steps: int) -> Quadrature | None:
    """The Gauss rules of an earlier measurement with as many steps.

    The outermost eigenvectors, which are as long as the parameters, are found anew.
    """
    saved = context.saved
    if "nodes" not in saved or saved["nodes"].shape[1] != steps:
        return None
    return Quadrature(saved["nodes"], saved["weights"], saved["probe_products"])


def _quantities(summary: Summary, threshold: float) -> dict[str, Estimate]:
    beyond = threshold * summary.radius
    return {
        "frobenius_norm": summary.frobenius(),
        "effective_rank": summary.effective_rank(),
        "negative_share": summary.share_below(-beyond),
        # Strictly above: of a Hessian that is zero no eigenvalue is positive.
        "positive_share": summary.share_above(float(np.nextafter(beyond, np.inf))),
    }


def _state(found: Density, confidence: float) -> dict[str, np.ndarray]:
    """The curve with its band, and what it is made from."""
    low, high = found.heights.band(confidence)
    return {
        "grid": found.grid,
        "density": found.heights.value,
        "density_low": low,
        "density_high": high,
        "cumulative": found.cumulative.value,
        "cumulative_half_width": found.cumulative.half_width(confidence),
        "width": np.array(found.width),
        "outliers": found.outliers.values,
        "nodes": found.quadrature.nodes,
        "weights": found.quadrature.weights,
        "probe_products": found.quadrature.products,
        "parameters": np.array(found.dim),
    }


def _histogram(summary: Summary) -> dict[str, np.ndarray]:
    """Numbers of eigenvalues by decades of their size."""
    edges, counts, half_widths = summary.counts(decades(summary.radius))
    return {"edges": edges, "counts": counts, "counts_half_width": half_widths}
