"""The two ends of the Hessian's spectrum.

Definition: the largest and the smallest *algebraic* eigenvalue of H = ∇²L(θ), weight decay included
where the risk has one. The largest is the sharpness of Keskar et al. (2017, arXiv 1609.04836) in
its second-order form; a negative smallest one says that θ is not a minimum.

Both come from one Lanczos run with full reorthogonalisation, which stops on each value's certified
error. Power iteration, the common way, finds the eigenvalue of largest magnitude and may stop
early or never.

Invariant to: permutations of hidden units; *not* to rescaling: Dinh et al. (2017, arXiv 1703.04933)
make the largest eigenvalue as large as they like without changing the network's function.
Requires: a loss and a network with second derivatives.
Cost: 20 to 65 Hessian products (most where the smallest eigenvalue is close to zero), and one
vector of memory for each; a product for each end for the error from measuring on a sample of the
data.
Known failure: the piecewise linear parts of a network contribute no curvature across their kinks.
"""

from __future__ import annotations

import torch
from pydantic import Field

from flatmeter.curvature.data_error import DataGroups
from flatmeter.curvature.products import HessianOperator
from flatmeter.estimate import Estimate
from flatmeter.measures.base import Measure, Measurement, MeasureSettings
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense
from flatmeter.spectral.lanczos import lanczos
from flatmeter.spectral.ritz import attainable
from flatmeter.spectral.spectrum import Spectrum

_ONCE = "equal eigenvalues may be counted once"


class Settings(MeasureSettings):
    """Options of the Hessian's eigenvalues."""

    k: int = Field(1, ge=1, description="eigenvalues at each end of the spectrum")
    max_products: int = Field(
        200, ge=1, description="most Hessian products; --max-products comes first"
    )


class HessianEigenvalues(Measure):
    """Largest and smallest eigenvalue of the loss's Hessian."""

    name = "hessian_eigenvalues"
    title = "Hessian eigenvalues"
    reference = "Keskar et al. 2017, arXiv 1609.04836"
    invariant_to = ("permutations of hidden units",)
    requires = ("second derivatives",)
    quantities = ("lambda_max", "lambda_min")
    Settings = Settings

    def expense(self, columns: int) -> Expense:
        """See the cost above."""
        settings: Settings = self.settings  # type: ignore[assignment]
        more = 4 * (settings.k - 1)
        return Expense.of_lanczos(20 + more, 65 + 3 * more, settings.max_products)

    def compute(self, context: Context) -> Measurement:
        """One Lanczos run for both ends."""
        settings: Settings = self.settings  # type: ignore[assignment]
        operator = HessianOperator(context.risk)
        spectrum = lanczos(
            operator,
            k=settings.k,
            rtol=context.rtol or attainable(1e-3, operator.noise),
            max_products=context.max_products or settings.max_products,
            seed=context.seed,
            progress=context.progress,
        )
        found = _named(spectrum)
        groups = DataGroups.of(context.risk)
        if groups is not None:
            context.progress("products of groups of samples")
            vectors = torch.cat([spectrum.vectors_largest, spectrum.vectors_smallest])
            known = groups.of_eigenvalues(list(found.values()), vectors)
            found = dict(zip(found, known, strict=True))
        first = {name: found[name] for name in self.quantities}
        return Measurement(
            quantities={**first, **found},
            notes=(_ONCE,) if settings.k > 1 else (),
            state={"alphas": spectrum.alphas.numpy(), "betas": spectrum.betas.numpy()},
        )


def _named(spectrum: Spectrum) -> dict[str, Estimate]:
    """Every eigenvalue by its name: ``lambda_max``, ``lambda_max_2`` and so on."""
    largest = [spectrum.estimate_largest(i) for i in range(len(spectrum.largest))]
    smallest = [spectrum.estimate_smallest(i) for i in range(len(spectrum.smallest))]
    return {
        name if i == 0 else f"{name}_{i + 1}": estimate
        for name, end in (("lambda_max", largest), ("lambda_min", smallest))
        for i, estimate in enumerate(end)
    }
