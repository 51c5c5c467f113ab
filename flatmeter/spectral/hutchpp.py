"""Hutch++: a trace from a sketch of the large eigenvalues, and random signs for the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flatmeter.errors import UsageError
from flatmeter.estimate import Estimate
from flatmeter.spectral.basis import Basis
from flatmeter.spectral.finite import finite
from flatmeter.spectral.memory import vectors_that_fit
from flatmeter.spectral.operator import Operator, Projected, rounding
from flatmeter.spectral.probes import rademacher
from flatmeter.spectral.trace import MIN_PROBES, Floats, block_traces


@dataclass(frozen=True)
class Deflation:
    """A subspace, and the trace that the operator has on it.

    Args:
        basis: ``[r, P]`` orthonormal rows Q, in the operator's dtype.
        trace: ``Tr(Q A Q^T)``.
        products: operator applications that it took.
    """

    basis: Tensor
    trace: float
    products: int

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, for ``np.savez``: r rows as long as P, and two numbers."""
        numbers = np.array([self.trace, self.products])
        return {"basis": self.basis.cpu().numpy(), "numbers": numbers}

    @classmethod
    def of_arrays(cls, op: Operator, arrays: Mapping[str, np.ndarray]) -> Deflation:
        """What :meth:`arrays` was taken from, on the operator's device."""
        basis = torch.from_numpy(np.array(arrays["basis"])).to(op.device, op.dtype)
        trace, products = arrays["numbers"]
        return cls(basis, float(trace), int(products))


@dataclass(frozen=True)
class HutchPPSamples:
    """A trace estimate, the sketch that it rests on and the probe values of the rest.

    Args:
        estimate: the trace; its standard error is that of the rest, given the sketch.
        values: ``[n]`` float64, ``v_i^T (I − Q^T Q) A (I − Q^T Q) v_i``.
        deflation: Q and the trace on it; hand it back with ``values`` to extend the run.
        products: operator applications behind the estimate.
    """

    estimate: Estimate
    values: Floats
    deflation: Deflation
    products: int


def hutchpp(
    op: Operator,
    *,
    sketch: int = 12,
    rtol: float = 0.01,
    confidence: float = 0.95,
    max_products: int = 1000,
    memory_bytes: int | None = None,
    block: int = 4,
    seed: int = 0,
    purpose: str = "hutchpp",
    deflation: Deflation | None = None,
    values: Floats | None = None,
    progress: Callable[[str], None] | None = None,
) -> HutchPPSamples:
    """Estimate ``Tr A`` by Hutch++ (Meyer, Musco, Musco and Woodruff 2021, Algorithm 1).

    ``Tr(Q A Q^T) + E[v^T (I − Q^T Q) A (I − Q^T Q) v]`` with Q an orthonormal basis of the products
    of ``sketch`` random signs. The algorithm gives a third of its products to each part; here the
    sketch is fixed, so that a longer run extends a shorter one, and probes are drawn until the
    half-width of the confidence interval is within the tolerance. Given Q they are independent:
    the standard error and the caution in stopping are ``hutchinson``'s. 95 % intervals cover 93 %
    to 96 %.

    Args:
        op: the operator A, dim P.
        sketch: directions taken out, two products each; P at most.
        rtol: half-width asked for, relative to the estimate.
        confidence: coverage of the interval.
        max_products: most applications of ``op``, at least two beyond the sketch's.
        memory_bytes: most bytes for Q, of which there are two copies while it is made, half of
            what is free by default; fewer directions are taken out where it holds fewer.
        block: vectors applied together; part of what makes two runs equal to the last bit.
        seed: of the run.
        purpose: keeps runs with the same seed apart.
        deflation: from an earlier run with the same operator, seed, purpose, sketch and block.
        values: ``[n]`` from that run; the result is that of a run from scratch.
        progress: told in words after each block; may raise to stop the run.

    Returns:
        The estimate and what it is made from.

    Raises:
        NonFinite: a product is infinite or not a number.
        UsageError: a number that makes no sense.
    """
    if sketch < 1 or max_products < 2 * sketch + 2 or block < 1:
        raise UsageError(
            f"Hutch++ needs a sketch and a block of at least 1 and max_products of at least two "
            f"beyond twice the sketch, not {sketch}, {block}, {max_products}"
        )
    if deflation is None:
        size = _size(op, sketch, memory_bytes)
        deflation = _deflation(op, size, block, seed, f"{purpose}, sketch", progress)
    probes = max_products - deflation.products
    rest = block_traces(
        Projected(op, deflation.basis),
        {"all": slice(0, op.dim)},
        offsets={"all": deflation.trace},
        rtol=rtol,
        confidence=confidence,
        min_probes=min(MIN_PROBES, probes),
        max_probes=probes,
        block=block,
        seed=seed,
        purpose=purpose,
        values=None if values is None else values[:, None],
        progress=progress,
    )
    found = rest.values[:, 0]
    return HutchPPSamples(rest.blocks["all"], found, deflation, deflation.products + len(found))


def _size(op: Operator, sketch: int, memory_bytes: int | None) -> int:
    """How many directions to take out: as asked, where dimension and memory allow."""
    held = vectors_that_fit(op, memory_bytes)
    return min(sketch, max(held // 2, 1), op.dim)


def _deflation(
    op: Operator,
    size: int,
    block: int,
    seed: int,
    purpose: str,
    progress: Callable[[str], None] | None,
) -> Deflation:
    """An orthonormal basis of the products of ``size`` random signs, and the trace on it."""
    basis = Basis(op.dim, op.dtype, op.device, size)
    trace = 0.0
    for first in range(0, size, block):
        last = min(first + block, size)
        old = basis.count
        for image in op.matmat(rademacher(op, first, last, seed=seed, purpose=purpose)):
            _append(basis, image)
        if basis.count > old:
            Q = torch.stack([basis[row] for row in range(old, basis.count)])
            form = (Q * op.matmat(Q)).sum(dtype=torch.float64)
            trace += float(finite(form.cpu().numpy()))
        if progress is not None:
            progress(f"trace: sketch of {last}, {trace:.6g} on it")
    rows = [basis[row] for row in range(basis.count)]
    Q = torch.stack(rows) if rows else torch.zeros(0, op.dim, dtype=op.dtype, device=op.device)
    return Deflation(Q, trace, size + basis.count)


def _append(basis: Basis, image: Tensor) -> None:
    """Append the direction that ``image [P]`` adds, unless what it adds is rounding."""
    norm = torch.linalg.vector_norm(image, dtype=torch.float64)
    remainder = basis.orthogonalise(image)
    pivot = torch.linalg.vector_norm(remainder, dtype=torch.float64)
    # Written so that what is not a number is kept, to be refused with the trace.
    if not pivot <= rounding(basis.dtype) * norm:
        basis.append(remainder / pivot.to(basis.dtype))
