"""The squared Frobenius norm of an operator, from the lengths of its products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from flatmeter.errors import UsageError
from flatmeter.spectral.finite import finite
from flatmeter.spectral.operator import Operator
from flatmeter.spectral.probes import rademacher
from flatmeter.spectral.trace import (
    MIN_PROBES,
    Floats,
    TraceSamples,
    drawn,
    mean_of,
    within,
)


def squared_frobenius(
    op: Operator,
    *,
    rtol: float = 0.01,
    confidence: float = 0.95,
    max_products: int = 1000,
    block: int = 8,
    seed: int = 0,
    purpose: str = "frobenius",
    values: Floats | None = None,
    progress: Callable[[str], None] | None = None,
) -> TraceSamples:
    """Estimate ``‖A‖_F² = Tr A² = E ‖A v‖²`` over random signs v (Hutchinson 1990, of A²).

    The variance is ``2 (‖A²‖_F² − Σ (A²)_ii²)``. Its unit is that of A, squared; the square root,
    whose relative error is half as large, is the norm, biased downwards by less than that.

    Args:
        op: the operator A.
        rtol: half-width asked for, relative to the estimate.
        confidence: coverage of the interval.
        max_products: most probes, one product each, at least 2.
        block: probes applied together; part of what makes two runs equal to the last bit.
        seed: of the run.
        purpose: keeps runs with the same seed apart.
        values: ``[n]`` from an earlier run with the same operator, seed, purpose and block; the
            result is that of a run from scratch.
        progress: told in words after each block; may raise to stop the run.

    Returns:
        The estimate of ``Tr A²`` and its probe values ``‖A v_i‖²``.

    Raises:
        NonFinite: a product is infinite or not a number.
        UsageError: a number that makes no sense.
    """
    if max_products < 2 or block < 1 or not 0 < confidence < 1:
        raise UsageError(
            f"a Frobenius norm needs max_products of at least 2, a block of at least 1 and a "
            f"confidence in (0, 1), not {max_products}, {block}, {confidence}"
        )
    saved = np.zeros(0) if values is None else values[:max_products]
    nothing = np.zeros(1)

    def met(table: Floats) -> NDArray[np.bool_]:
        if len(table) < MIN_PROBES:
            return np.zeros(1, dtype=bool)
        return within(table[:, None], nothing, rtol, confidence)

    def enough(table: Floats) -> bool:
        if progress is not None:
            progress(f"Frobenius norm: {len(table)} products, {table.mean():.6g}")
        return bool(met(table)[0])

    def draw(first: int, last: int) -> Floats:
        return _lengths(op, first, last, seed, purpose)

    table = drawn(draw, saved, block, max_products, enough)
    return TraceSamples(mean_of(table[:, None], nothing, met(table)), table)


def _lengths(op: Operator, first: int, last: int, seed: int, purpose: str) -> Floats:
    """``‖A v‖²`` of probes ``first`` to ``last - 1``, summed in float64."""
    images = op.matmat(rademacher(op, first, last, seed=seed, purpose=purpose))
    # Squared in float64, since the square of a float32 may overflow.
    norms = torch.stack([torch.linalg.vector_norm(v, dtype=torch.float64) for v in images])
    return finite(norms.square().cpu().numpy())
