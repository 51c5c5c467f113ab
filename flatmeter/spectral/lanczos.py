"""Lanczos with full reorthogonalisation: extreme eigenvalues with certified errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatmeter.errors import UsageError
from flatmeter.estimate import Why
from flatmeter.spectral.block_krylov import BlockKrylov
from flatmeter.spectral.krylov import Krylov, Step
from flatmeter.spectral.memory import vectors_that_fit
from flatmeter.spectral.operator import Operator
from flatmeter.spectral.ritz import Certificate, Criterion, Floats, certify
from flatmeter.spectral.spectrum import End, Spectrum

Which = Literal["both", "largest", "smallest"]

CONFIRMATION = 8
"""Products spent on a fresh vector after an invariant subspace was found."""

PERSISTENCE = 4
"""Products for which certified values must stand still: without them 1 in 180 runs on small
networks stopped at an inner eigenvalue."""

_ENDS = {"both": ("upper", "lower"), "largest": ("upper",), "smallest": ("lower",)}


def lanczos(
    op: Operator,
    *,
    which: Which = "both",
    k: int = 1,
    rtol: float = 1e-4,
    criterion: Criterion = "error",
    max_products: int = 200,
    memory_bytes: int | None = None,
    block: int = 1,
    start: Tensor | None = None,
    seed: int = 0,
    krylov: Krylov | None = None,
    progress: Callable[[str], None] | None = None,
) -> Spectrum:
    """Find the ``k`` largest and smallest *algebraic* eigenvalues of a symmetric operator.

    What ``scipy.sparse.linalg.eigsh(which="LA" | "SA" | "BE")`` computes, but it stops on each
    value's certified error (see :func:`flatmeter.spectral.ritz.certify`), takes both ends from one
    Krylov space, and restarts only when memory demands it.

    A single start vector sees every *distinct* eigenvalue once. When its Krylov space is
    exhausted, the eigenvalues found are exact; a fresh random vector orthogonal to it then looks
    for further copies, and for blocks that ``start`` could not reach, for at least
    ``CONFIRMATION`` products or until it too is exhausted without changing a wanted value.
    So the certificate says that there is an eigenvalue within the bound. That none lies beyond it
    is certain only once P vectors were spent, and else rests on the start being random.

    Blocks of b vectors see b copies of a multiple eigenvalue, and take fewer steps but more
    products: for one eigenvalue 1.4 to 1.6 times as many for b = 2, 2 to 2.3 for b = 4 and 5 to 8
    for b = 16; for ten 1.2 to 1.3, 1.4 to 1.7 and 3.3 to 3.9 times. They pay where a product in a
    block is cheaper than a single one by more than that.

    Args:
        op: the operator, dim P.
        which: ends that are wanted.
        k: eigenvalues per end; fewer come back where P or the budget is smaller.
        rtol: relative tolerance.
        criterion: ``"error"`` stops on the certified errors of the eigenvalues, ``"residual"``
            asks besides for residual norms below ``rtol`` times the spectral radius.
        max_products: most applications of ``op``.
        memory_bytes: most bytes for the basis, half of what is free by default; two blocks and one
            vector beyond the wanted ones are always held.
        block: b, vectors that are applied together.
        start: ``[P]``, for single vectors; a Gaussian vector derived from ``seed`` by default.
        seed: of the start and of fresh vectors.
        krylov: of an earlier run with the same operator, ends and k, which is extended with that
            run's block, seed and memory; the result is that of a longer run from the start, to the
            last bit. In a file: :meth:`Krylov.arrays` and :func:`restored`.
        progress: told in words after each product; may raise to stop the run.

    Returns:
        The spectrum; ``converged`` false with ``Why.BUDGET`` when the products ran out, and with
        ``Why.PRECISION`` when rounding in the products is more than the tolerance.

    Raises:
        NonFinite: a product is infinite or not a number.
        UsageError: a number that makes no sense, or a start of zero norm.
    """
    if k < 1 or not 1 <= block <= max_products:
        raise UsageError(
            f"Lanczos needs k and a block of at least 1 and max_products of at least a block, "
            f"not {k}, {block}, {max_products}"
        )
    ends = _ENDS[which]
    if krylov is None:
        wanted = len(ends) * k + 2 * block + 1
        krylov = _begun(op, _capacity(op, wanted, memory_bytes), seed, start, block)
    stop = _Stopping(krylov, ends, k, rtol, criterion)
    why: Why | None = None
    for step in krylov.trail:
        why = stop.decide(step)
    while why is None:
        if krylov.products + krylov.block > max_products:
            why = Why.BUDGET
            break
        if krylov.trail:
            if krylov.full:
                krylov.restart(_kept(krylov.basis.count, k, ends))
            krylov.extend()
        krylov.step()
        why = stop.decide(krylov.trail[-1])
        if progress is not None:
            progress(stop.describe())
    return _spectrum(krylov, stop, why)


def restored(op: Operator, arrays: Mapping[str, np.ndarray]) -> Krylov:
    """The Krylov space that :meth:`Krylov.arrays` was taken from, for :func:`lanczos` to extend.

    Args:
        op: the operator of the earlier run.
        arrays: by name, as ``np.load`` gives them.

    Raises:
        UsageError: they are another dimension's.
    """
    block, capacity, seed, *_ = (int(c) for c in arrays["counters"])
    if arrays["basis"].shape[1] != op.dim:
        raise UsageError(
            f"the saved Krylov space has dimension {arrays['basis'].shape[1]}, not {op.dim}",
            hint="it belongs to another network or another choice of parameters",
        )
    krylov = _begun(op, capacity, seed, None, block)
    krylov.restore(arrays)
    return krylov


def _begun(op: Operator, capacity: int, seed: int, start: Tensor | None, block: int) -> Krylov:
    if start is not None and block > 1:
        raise UsageError(
            "a block of vectors starts from random ones: give start or block, not both"
        )
    # In one dimension a block is a single vector.
    if min(block, op.dim) == 1:
        return Krylov(op, capacity, seed, start)
    return BlockKrylov(op, capacity, seed, block)


class _Stopping:
    """Certificates of the wanted values after each step, and the decision to stop."""

    def __init__(
        self, krylov: Krylov, ends: tuple[str, ...], k: int, rtol: float, criterion: Criterion
    ) -> None:
        self.krylov, self.ends, self.k = krylov, ends, k
        self.rtol, self.criterion = rtol, criterion
        self.confirm_until = 0
        self.settled: Floats | None = None
        self.certified: tuple[int, Floats] | None = None
        self.products = 0
        self.certificates: dict[str, Certificate] = {}
        self.history: dict[str, list[Floats]] = {end: [] for end in ends}

    def indices(self, end: str) -> NDArray[np.intp]:
        """Positions of this end's Ritz values, the outermost first."""
        m = len(self.krylov.values)
        return _outermost(m, self.k, end)

    def decide(self, step: Step) -> Why | None:
        """Why to stop, or None to go on; told of every step in turn."""
        op, m = self.krylov.op, len(step.values)
        for end in self.ends:
            certificate = certify(
                step.values,
                step.residuals,
                _outermost(m, self.k, end),
                rtol=self.rtol,
                criterion=self.criterion,
                noise=self.krylov.noise,
            )
            self.certificates[end] = certificate
            padding = np.full(self.k - len(certificate.values), np.nan)
            self.history[end].append(np.concatenate([certificate.values, padding]))
        self.products = step.products
        if m == op.dim:
            return self._to_precision(Why.BREAKDOWN)
        if m < self.k or not all(c.settled.all() for c in self.certificates.values()):
            return None
        if step.exhausted:
            return self._to_precision(Why.BREAKDOWN) if self._unchanged(step) else None
        done = self._stayed(step) and step.products >= self.confirm_until
        return self._to_precision(Why.RESIDUAL) if done else None

    def _to_precision(self, why: Why) -> Why:
        """``why``, unless rounding in the products is more than the tolerance."""
        met = all(c.converged.all() for c in self.certificates.values())
        return why if met else Why.PRECISION

    def _stayed(self, step: Step) -> bool:
        """Whether the certified values stood still for ``PERSISTENCE`` products.

        A Ritz value rests for a while near an inner eigenvalue, with a small residual, before the
        outer one shows.
        """
        wanted = np.concatenate([c.values for c in self.certificates.values()])
        since, values = self.certified or (step.products, wanted)
        rtol = max(self.rtol, self.krylov.noise)
        if np.abs(wanted - values).max() > rtol * np.abs(wanted).max():
            since, values = step.products, wanted
        self.certified = since, values
        return step.products >= since + PERSISTENCE

    def _unchanged(self, step: Step) -> bool:
        """Whether the exhausted space holds the same wanted values as the one before it."""
        wanted = np.concatenate([c.values for c in self.certificates.values()])
        before, self.settled = self.settled, wanted
        self.confirm_until = step.products + CONFIRMATION
        if before is None:
            return False
        return bool(np.abs(before - wanted).max() <= self.krylov.noise * step.radius)

    def describe(self) -> str:
        shown = ", ".join(f"{self.history[end][-1][0]:.6g}" for end in self.ends)
        return f"Lanczos: {self.products} products, {shown}"


def _outermost(m: int, k: int, end: str) -> NDArray[np.intp]:
    """Positions of an end's k of m ascending values, the outermost first."""
    count = np.arange(min(k, m))
    return m - 1 - count if end == "upper" else count


def _capacity(op: Operator, wanted: int, memory_bytes: int | None) -> int:
    """How many basis vectors to hold at once; no budget enters, or a longer run would differ."""
    held = vectors_that_fit(op, memory_bytes)
    return min(op.dim, max(held, wanted))


def _kept(m: int, k: int, ends: tuple[str, ...]) -> NDArray[np.intp]:
    """Ritz values to keep in a restart: the wanted ones and half of the others, outermost first."""
    wanted = len(ends) * k
    keep = wanted + (m - wanted) // 2
    lower = keep // 2 if len(ends) == 2 else keep * (ends[0] == "lower")
    return np.concatenate([np.arange(lower), np.arange(m - (keep - lower), m)])


def _spectrum(krylov: Krylov, stop: _Stopping, why: Why) -> Spectrum:
    return Spectrum(
        upper=_end(krylov, stop, "upper"),
        lower=_end(krylov, stop, "lower"),
        products=krylov.products,
        converged=why in (Why.RESIDUAL, Why.BREAKDOWN),
        why=why,
        alphas=torch.tensor(krylov.projected.alphas, dtype=torch.float64),
        betas=torch.tensor(krylov.projected.betas, dtype=torch.float64),
        restarts=krylov.restarts,
        krylov=krylov,
    )


def _end(krylov: Krylov, stop: _Stopping, end: str) -> End:
    """The end's values and vectors; empty where it was not asked for."""
    if end not in stop.ends:
        none = torch.zeros(0, dtype=torch.float64)
        vectors = torch.zeros(0, krylov.op.dim, dtype=krylov.op.dtype, device=krylov.op.device)
        return End(none, none, none, (), (), vectors, np.zeros((len(krylov.trail), 0)))
    certificate = stop.certificates[end]
    return End(
        values=torch.from_numpy(certificate.values.copy()),
        residuals=torch.from_numpy(certificate.residuals),
        bounds=torch.from_numpy(certificate.bounds),
        settled=tuple(bool(s) for s in certificate.settled),
        converged=tuple(bool(c) for c in certificate.converged),
        vectors=krylov.ritz_vectors(stop.indices(end)),
        history=np.array(stop.history[end]),
    )
