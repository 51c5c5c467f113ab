"""Lanczos with full reorthogonalisation: extreme eigenvalues with certified errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatmeter.errors import UsageError
from flatmeter.estimate import Why
from flatmeter.spectral.krylov import Krylov
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
    start: Tensor | None = None,
    seed: int = 0,
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

    Args:
        op: the operator, dim P.
        which: ends that are wanted.
        k: eigenvalues per end; fewer come back where P or the budget is smaller.
        rtol: relative tolerance.
        criterion: ``"error"`` stops on the certified errors of the eigenvalues, ``"residual"``
            asks besides for residual norms below ``rtol`` times the spectral radius.
        max_products: most applications of ``op``.
        memory_bytes: most bytes for the basis, half of what is free by default; three vectors
            beyond the wanted ones are always held.
        start: ``[P]``; a Gaussian vector derived from ``seed`` by default.
        seed: of the start and of fresh vectors.
        progress: told in words after each product; may raise to stop the run.

    Returns:
        The spectrum; ``converged`` false with ``Why.BUDGET`` when the products ran out, and with
        ``Why.PRECISION`` when rounding in the products is more than the tolerance.

    Raises:
        NonFinite: a product is infinite or not a number.
        UsageError: a number that makes no sense, or a start of zero norm.
    """
    if k < 1 or max_products < 1:
        raise UsageError(f"Lanczos needs k and max_products of at least 1, not {k}, {max_products}")
    ends = _ENDS[which]
    capacity = _capacity(op, len(ends) * k, max_products, memory_bytes)
    krylov = Krylov(op, capacity, seed, start)
    stop = _Stopping(krylov, ends, k, rtol, criterion)
    while True:
        krylov.step()
        why = stop.decide()
        if progress is not None:
            progress(stop.describe())
        if why is None and krylov.products >= max_products:
            why = Why.BUDGET
        if why is not None:
            return _spectrum(krylov, stop, why)
        if krylov.basis.count == capacity:
            krylov.restart(_kept(capacity, k, ends))
        krylov.extend()


class _Stopping:
    """Certificates of the wanted values after each product, and the decision to stop."""

    def __init__(
        self, krylov: Krylov, ends: tuple[str, ...], k: int, rtol: float, criterion: Criterion
    ) -> None:
        self.krylov, self.ends, self.k = krylov, ends, k
        self.rtol, self.criterion = rtol, criterion
        self.confirm_until = 0
        self.settled: Floats | None = None
        self.certified: tuple[int, Floats] | None = None
        self.certificates: dict[str, Certificate] = {}
        self.history: dict[str, list[Floats]] = {end: [] for end in ends}

    def indices(self, end: str) -> NDArray[np.intp]:
        """Positions of this end's Ritz values, the outermost first."""
        m = len(self.krylov.values)
        count = np.arange(min(self.k, m))
        return m - 1 - count if end == "upper" else count

    def decide(self) -> Why | None:
        """Why to stop, or None to go on."""
        krylov = self.krylov
        for end in self.ends:
            certificate = certify(
                krylov.values,
                krylov.residuals,
                self.indices(end),
                rtol=self.rtol,
                criterion=self.criterion,
                noise=krylov.noise,
            )
            self.certificates[end] = certificate
            padding = np.full(self.k - len(certificate.values), np.nan)
            self.history[end].append(np.concatenate([certificate.values, padding]))
        if krylov.basis.count == krylov.op.dim:
            return self._to_precision(Why.BREAKDOWN)
        enough = len(krylov.values) >= self.k
        if not enough or not all(c.settled.all() for c in self.certificates.values()):
            return None
        if krylov.exhausted:
            return self._to_precision(Why.BREAKDOWN) if self._unchanged() else None
        done = self._stayed() and krylov.products >= self.confirm_until
        return self._to_precision(Why.RESIDUAL) if done else None

    def _to_precision(self, why: Why) -> Why:
        """``why``, unless rounding in the products is more than the tolerance."""
        met = all(c.converged.all() for c in self.certificates.values())
        return why if met else Why.PRECISION

    def _stayed(self) -> bool:
        """Whether the certified values stood still for ``PERSISTENCE`` products.

        A Ritz value rests for a while near an inner eigenvalue, with a small residual, before the
        outer one shows.
        """
        wanted = np.concatenate([c.values for c in self.certificates.values()])
        since, values = self.certified or (self.krylov.products, wanted)
        rtol = max(self.rtol, self.krylov.noise)
        if np.abs(wanted - values).max() > rtol * np.abs(wanted).max():
            since, values = self.krylov.products, wanted
        self.certified = since, values
        return self.krylov.products >= since + PERSISTENCE

    def _unchanged(self) -> bool:
        """Whether the exhausted space holds the same wanted values as the one before it."""
        wanted = np.concatenate([c.values for c in self.certificates.values()])
        before, self.settled = self.settled, wanted
        self.confirm_until = self.krylov.products + CONFIRMATION
        if before is None:
            return False
        return bool(np.abs(before - wanted).max() <= self.krylov.noise * self.krylov.radius)

    def describe(self) -> str:
        shown = ", ".join(f"{self.history[end][-1][0]:.6g}" for end in self.ends)
        return f"Lanczos: {self.krylov.products} products, {shown}"


def _capacity(op: Operator, wanted: int, max_products: int, memory_bytes: int | None) -> int:
    """How many basis vectors to hold at once."""
    most = min(op.dim, max_products)
    held = vectors_that_fit(op, memory_bytes)
    return most if held is None else min(most, max(held, wanted + 3))


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
    )


def _end(krylov: Krylov, stop: _Stopping, end: str) -> End:
    """The end's values and vectors; empty where it was not asked for."""
    if end not in stop.ends:
        none = torch.zeros(0, dtype=torch.float64)
        vectors = torch.zeros(0, krylov.op.dim, dtype=krylov.op.dtype, device=krylov.op.device)
        return End(none, none, none, (), (), vectors, np.zeros((krylov.products, 0)))
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
