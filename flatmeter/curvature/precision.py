"""What rounding does to a curvature product, measured against float64 on a few samples."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flatmeter.randomness import derived_generator
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.variants import excerpt
from flatmeter.spectral.operator import Operator, rounding

SAMPLES = 64
"""Samples that the products are compared on, where that is a small part of the data."""

LEAST_SAMPLES, SHARE = 4, 16
"""Of few data a sixteenth, but not fewer than these: the comparison is to cost less than a product
with all data."""

PARTS, SMALL = 4, 2**24
"""Micro-batches of the samples in float64, where their graph takes more bytes than these."""

POWER_STEPS = 2
"""Products that turn a random vector towards the large eigenvalues, whose scale is the radius."""

SAFETY = 2.0
"""One probe does not see the largest error there is."""

_MEASURED: WeakKeyDictionary[nn.Module, dict[str, float]] = WeakKeyDictionary()


def product_noise(
    risk: EmpiricalRisk, kind: str, make: Callable[[EmpiricalRisk], Operator]
) -> float:
    """Relative rounding error to expect of one product with a risk's curvature matrix.

    Small networks lose about ten ε; deep ones with the statistics of a small batch can lose half of
    the digits of float32. Measured once for each risk's network.

    Args:
        risk: the empirical risk.
        kind: names the matrix.
        make: builds its operator for a risk.

    Returns:
        Relative to the spectral radius; in float64, where nothing finer is at hand to compare with,
        what rounding alone contributes.
    """
    least = rounding(risk.dtype)
    if risk.dtype == torch.float64:
        return least
    measured = _MEASURED.setdefault(risk.module, {})
    if kind not in measured:
        error = SAFETY * _relative_error(risk, make)
        # Solvers stop by it, and are to do so in every process alike.
        measured[kind] = risk.ranks.from_first(lambda: max(least, error))
    return measured[kind]


def _relative_error(risk: EmpiricalRisk, make: Callable[[EmpiricalRisk], Operator]) -> float:
    # One risk after the other: of a large network each takes as much memory as the measure.
    ours = excerpt(risk, _samples(risk), risk.dtype)
    if ours.normalizer <= 0:
        return 0.0
    vector, found = _images(make(ours))
    _charge(risk, ours)
    del ours
    finer = excerpt(risk, _samples(risk), torch.float64)
    if not (risk.samples_interact or _is_small(risk, finer.n)):
        finer = finer.with_batch_size(-(-finer.n // PARTS))
    true = _product(make(finer), vector)
    _charge(risk, finer)
    error = float((found - true).norm() / true.norm().clamp_min(1e-300))
    return error if error < float("inf") else 0.0


def _is_small(risk: EmpiricalRisk, n: int) -> bool:
    """The graph of ``n`` samples in float64 takes little, as planned."""
    wider = torch.float64.itemsize // risk.dtype.itemsize
    return risk.graphs_fit and wider * n * risk.memory.appetite.passing <= SMALL


def _images(operator: Operator) -> tuple[Tensor, Tensor]:
    """A vector along large eigenvalues, ``[P]`` in float64, and its image."""
    source = derived_generator(0, "precision")
    vector = torch.randn(operator.dim, generator=source, dtype=torch.float64)
    for _ in range(POWER_STEPS):
        vector = _product(operator, vector)
        vector /= vector.norm().clamp_min(1e-300)
    return vector, _product(operator, vector)


def _charge(risk: EmpiricalRisk, part: EmpiricalRisk) -> None:
    """Count what was spent on some samples as what it is of the whole."""
    share, cost = part.n / risk.n, part.cost
    risk.cost.add(cost.gradient_equivalents * share, products=cost.products * share)


def _samples(risk: EmpiricalRisk) -> int:
    """Batch statistics lose more digits in small batches, so that these keep their size."""
    few = SAMPLES if risk.samples_interact else max(LEAST_SAMPLES, risk.n // SHARE)
    return min(SAMPLES, few)


def _product(operator: Operator, vector: Tensor) -> Tensor:
    image = operator.matmat(vector[None].to(operator.device, operator.dtype))
    return image[0].cpu().double()
