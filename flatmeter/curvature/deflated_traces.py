"""Block traces of the Hessian where they are not exact: probes of what a sketch leaves over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flatmeter.curvature.layer_traces import LayerTraces, Target, Ways, layer_traces
from flatmeter.curvature.products import GaussNewtonOperator, HessianOperator
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.basis import Basis
from flatmeter.spectral.finite import finite
from flatmeter.spectral.memory import vectors_that_fit
from flatmeter.spectral.operator import rounding
from flatmeter.spectral.probes import rademacher
from flatmeter.spectral.trace import MIN_PROBES, drawn

Method = Literal["auto", "hutchinson", "hutchpp"]

BLOCK = 8
"""Vectors applied together."""

ENOUGH = 32
"""Probes up to which a sketch does not pay for itself."""

CONTROL = 2.5
"""How many times less the probes must scatter with the Gauss-Newton matrix taken off, for its
products to pay."""


def hessian_traces(
    risk: EmpiricalRisk,
    *,
    method: Method = "auto",
    seed: int = 0,
    rtol: float = 0.01,
    confidence: float = 0.95,
    max_probes: int = 500,
    saved: tuple[str, np.ndarray] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> LayerTraces:
    """Traces of the Hessian's diagonal blocks, as ``layer_traces`` gives them but for the probes.

    Tensors whose trace is not exact share random signs v. The first ``MIN_PROBES`` tell how much
    the forms of H − G and of H scatter, G being the Gauss-Newton matrix where its trace is known.
    Where many probes were needed, their images become the sketch of Hutch++ (Meyer, Musco, Musco
    and Woodruff 2021): with Π the projection onto it every block's trace is::

        T_l(A) = Σ_i [2 (A q_i)_l − (Π A q_i)_l] · (q_i)_l + E[v_l · ((I − Π) A (I − Π) v)_l]

    Args:
        risk: the empirical risk.
        method: ``hutchinson`` never makes a sketch, ``hutchpp`` always, ``auto`` where it pays.
        seed: of the probes.
        rtol: half-width of the total's interval, relative to the total.
        confidence: coverage of that interval.
        max_probes: most probes, those of the sketch counted.
        saved: kind and probes of an earlier run with the same risk, method and seed; the result is
            that of a run from scratch.
        progress: told what is being done; may raise to stop.

    Returns:
        The traces. Weight decay is left out.
    """
    plain = risk.without_weight_decay()
    ways = Ways.of(plain, "hessian", seed)

    def earlier(kind: str) -> np.ndarray:
        fitting = saved is not None and saved[0] == kind
        return saved[1] if saved and fitting else np.zeros((0, len(risk.space.names)))

    def undeflated(most: int) -> LayerTraces:
        return layer_traces(
            risk,
            curvature="hessian",
            seed=seed,
            rtol=rtol,
            confidence=confidence,
            max_probes=most,
            saved=earlier("plain"),
            progress=progress,
        )

    open_ = bool(ways.open_names) and not ways.sampled
    probes = _Probes(plain, ways, seed, HessianOperator(plain), GaussNewtonOperator(plain))
    few = max_probes < 3 * MIN_PROBES
    if method == "hutchinson" or not open_ or few or _tight(probes.hessian):
        return undeflated(max_probes)
    # Two probes: for all that is exact, and for the errors from a sample of the data.
    known = undeflated(2)
    target = Target(np.ones_like, rtol, confidence)
    start = _Start.drawn(probes, known.base)
    base, head, kind = known.base, start.rows, "signs"
    if method == "hutchpp" or start.needed(target) > ENOUGH:
        probes, base = start.deflated()
        head, kind = head[:0], "deflated"

    def draw(first: int, last: int) -> np.ndarray:
        return probes.draw(MIN_PROBES + first, MIN_PROBES + last)

    def enough(rest: np.ndarray) -> bool:
        progress(f"layer traces: probe {MIN_PROBES + len(rest)}")
        rows = np.concatenate([head, rest])
        return len(rows) >= MIN_PROBES and target.met(base, rows)

    rest = np.zeros((0, len(base)))
    if not enough(rest):
        most = max_probes - MIN_PROBES
        rest = drawn(draw, earlier(kind)[len(head) :][:most], BLOCK, most, enough)
    rows, used = np.concatenate([head, rest]), MIN_PROBES + len(rest)
    return replace(
        known,
        base=base,
        probes=rows,
        converged=target.met(base, rows),
        notes=(f"traces of {len(ways.open_names)} tensors were estimated from {used} probes",),
        kind=kind,
    )


def _tight(operator: HessianOperator) -> bool:
    """Whether memory has no room for the first probes, their images and a sketch."""
    return vectors_that_fit(operator, None) < 5 * MIN_PROBES


@dataclass(frozen=True)
class _Start:
    """The first probes, with which the others are chosen.

    Args:
        probes: of which these are the first.
        base: exact part of every trace, ``[n]``.
        signs: the probes, ``[k, P]``.
        images: of the Hessian, ``[k, P]``.
        taken: what the control takes off them, ``[k, P]``.
    """

    probes: _Probes
    base: np.ndarray
    signs: Tensor
    images: Tensor
    taken: Tensor

    @classmethod
    def drawn(cls, probes: _Probes, base: np.ndarray) -> _Start:
        """The first ``MIN_PROBES``."""
        signs = probes.signs(0, MIN_PROBES)
        return cls(probes, base, signs, *probes.images(signs))

    @property
    def rows(self) -> np.ndarray:
        """Their forms on every tensor, ``[k, n]``."""
        return self.probes.rows(self.signs, self.images - self.taken)

    def needed(self, target: Target) -> float:
        """How many of their kind the tolerance takes, from their spread."""
        total = abs(float((self.base + self.rows.mean(0)).sum()))
        width = 2 * float(self.rows.sum(1).std(ddof=1))
        return (width / (target.rtol * total)) ** 2 if total else float("inf")

    def deflated(self) -> tuple[_Probes, np.ndarray]:
        """Probes of what a sketch of the images leaves over, and the rest of every trace."""
        plain = float(self.probes.rows(self.signs, self.images).sum(1).std(ddof=1))
        controlled = plain > CONTROL * float(self.rows.sum(1).std(ddof=1))
        sketch = self.images - self.taken if controlled else self.images
        probes, heads = replace(self.probes, controlled=controlled).deflated(sketch)
        known = self.base if controlled else np.where(self.probes.open, 0.0, self.base)
        return probes, known + heads


@dataclass(frozen=True)
class _Probes:
    """Random signs on the open tensors, and forms of the Hessian's block there.

    Args:
        risk: without weight decay.
        ways: which tensors are open, and of which the Gauss-Newton trace is known.
        seed: of the signs.
        hessian, gauss_newton: operators of the risk.
        controlled: the Gauss-Newton matrix is taken off where its trace is known.
        basis: orthonormal rows ``[r, P]`` that are projected out.
    """

    risk: EmpiricalRisk
    ways: Ways
    seed: int
    hessian: HessianOperator
    gauss_newton: GaussNewtonOperator
    controlled: bool = True
    basis: Tensor | None = None

    @property
    def open(self) -> np.ndarray:
        """Which tensors are open, ``[n]``."""
        return np.array([n in self.ways.open_names for n in self.risk.space.names])

    def signs(self, first: int, last: int) -> Tensor:
        """Probes ``first`` to ``last − 1``, zero on other tensors, ``[k, P]``."""
        V = rademacher(self.hessian, first, last, seed=self.seed, purpose="open tensors")
        return V * self._mask(self.ways.open_names)

    def images(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """Images of the Hessian's open block, and what is taken off them."""
        images = self.hessian.matmat(V) * self._mask(self.ways.open_names)
        varied = [n for n in self.ways.open_names if n in self.ways.admitted]
        if not self.controlled or not varied:
            return images, torch.zeros_like(images)
        mask = self._mask(varied)
        return images, self.gauss_newton.matmat(V * mask) * mask

    def deflated(self, images: Tensor) -> tuple[_Probes, np.ndarray]:
        """Probes of what the span of ``images [k, P]`` leaves over; the traces on it, ``[n]``."""
        basis = Basis(images.shape[1], images.dtype, images.device, len(images))
        for image in images:
            norm = torch.linalg.vector_norm(image, dtype=torch.float64)
            remainder = basis.orthogonalise(image)
            pivot = torch.linalg.vector_norm(remainder, dtype=torch.float64)
            if pivot > rounding(image.dtype) * norm:
                basis.append(remainder / pivot.to(image.dtype))
        if not basis.count:
            return self, np.zeros(len(self.open))
        Q = torch.stack([basis[row] for row in range(basis.count)])
        AQ, taken = self.images(Q)
        AQ = AQ - taken
        inside = (AQ.double() @ Q.double().T).to(Q.dtype)
        heads: np.ndarray = self.rows(Q, 2 * AQ - inside @ Q).sum(0)
        return replace(self, basis=Q), heads

    def draw(self, first: int, last: int) -> np.ndarray:
        """Forms of the probes ``first`` to ``last − 1`` on every tensor: ``[k, n]``."""
        V = self._away(self.signs(first, last))
        images, taken = self.images(V)
        return self.rows(V, self._away(images - taken))

    def rows(self, V: Tensor, images: Tensor) -> np.ndarray:
        """``v_l · a_l`` of every row and tensor, summed in float64: ``[k, n]``."""
        parts = (V.double() * images.double()).split(self.risk.space.sizes, dim=1)
        return finite(torch.stack([part.sum(1) for part in parts], dim=1).cpu().numpy())

    def _away(self, V: Tensor) -> Tensor:
        """Without what lies in the span of the basis."""
        return V if self.basis is None else V - (V @ self.basis.T) @ self.basis

    def _mask(self, names: list[str]) -> Tensor:
        """One on these tensors, zero on the others: ``[P]``."""
        mask = torch.zeros(self.risk.space.dim, dtype=self.risk.dtype, device=self.risk.device)
        for name in names:
            mask[self.risk.space.slice(name)] = 1.0
        return mask
