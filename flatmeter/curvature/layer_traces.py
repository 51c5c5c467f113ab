"""Traces of every tensor's diagonal curvature block: exact where they can be, else by probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flatmeter.curvature.ghost import eligible, exact_traces, output_signs, probed_traces
from flatmeter.curvature.products import GaussNewtonOperator, HessianOperator
from flatmeter.estimate import Estimate, Why, student_quantile
from flatmeter.randomness import derived_generator
from flatmeter.risk.cost import GRADIENT
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.trace import CAUTION, MIN_PROBES

Curvature = Literal["ggn", "hessian"]

#: With more columns than this the exact trace gives way to random columns.
EXACT_COLUMNS = 100
COLUMN_PROBES = 8
PROBE_BLOCK = 8
PROBE_GROUP = 128
"""Samples whose gradients are summed before they are squared: fewer vary less, at more calls."""


@dataclass(frozen=True)
class LayerTraces:
    """Block traces with the probe values behind them, so that any combination has its error.

    Args:
        names: parameter tensors, in the order of the parameter space.
        base: deterministic part of each trace, ``[n]``.
        probes: one row per random probe, added to ``base`` on average: ``[m, n]``.
        exact_hessian: per tensor, the value is certified to be the Hessian's block trace.
        converged: the tolerance was met.
        notes: which tensors were not exact, in words.
    """

    names: tuple[str, ...]
    base: np.ndarray
    probes: np.ndarray
    exact_hessian: Mapping[str, bool]
    converged: bool
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> np.ndarray:
        """Trace of each block, ``[n]``."""
        means: np.ndarray = self.base + (self.probes.mean(0) if len(self.probes) else 0.0)
        return means

    def combination(self, weights: Sequence[float] | np.ndarray) -> Estimate:
        """``Σ_l weights_l T_l`` with the error of the sum (blocks share their probes)."""
        w = np.asarray(weights, dtype=np.float64)
        used = self.probes[:, w != 0] @ w[w != 0]
        variance = float(np.var(used, ddof=1)) / len(used) if len(used) > 1 else 0.0
        if len(used) == 1 and used.any():
            variance = float("inf")
        value = float(self.values @ w)
        if variance == 0.0:
            return Estimate.of_exact(value)
        why = Why.INTERVAL if self.converged else Why.BUDGET
        return Estimate(value, variance**0.5, n=len(used), converged=self.converged, why=why)

    @property
    def total(self) -> Estimate:
        """Trace of the whole matrix."""
        return self.combination(np.ones(len(self.names)))

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Each block's trace by name."""
        rows = np.eye(len(self.names))
        return {n: self.combination(w) for n, w in zip(self.names, rows, strict=True)}


def layer_traces(
    risk: EmpiricalRisk,
    *,
    curvature: Curvature = "ggn",
    seed: int = 0,
    rtol: float = 0.01,
    confidence: float = 0.95,
    max_probes: int = 500,
    weights: Callable[[np.ndarray], np.ndarray] = np.ones_like,
    progress: Callable[[str], None] = lambda text: None,
) -> LayerTraces:
    """Traces of the diagonal blocks of the Gauss-Newton matrix or of the Hessian.

    Exact by the ghost method where a tensor is used once by an operator it knows. Other tensors:
    the Gauss-Newton trace is ``E‖Jᵀ S ε‖²`` over random signs ε at the outputs, non-negative for
    every probe; the Hessian's is ``E v_lᵀ(Hv)_l``, and where only the certificate is missing the
    exact Gauss-Newton trace serves as control variate: ``T + E v_lᵀ((H − G)v)_l``. With many
    classes the ghost method itself takes random columns, the same for all tensors.
    Weight decay is left out.

    Args:
        risk: the empirical risk.
        curvature: ``ggn`` or ``hessian``.
        seed: of the probes.
        rtol: half-width of the weighted sum's interval, relative to the sum.
        confidence: coverage of that interval.
        max_probes: most probes.
        weights: from the traces ``[n]`` to the weights ``[n]`` of the sum that is wanted; the
            plain total if left out.
        progress: told what is being done; may raise to stop.

    Returns:
        The traces.
    """
    risk = risk.without_weight_decay()
    names = risk.space.names
    admitted = eligible(risk)
    progress("exact layer traces")
    sampled = bool(admitted.names) and _columns(risk) > EXACT_COLUMNS
    exact = {} if sampled or not admitted.names else exact_traces(risk, admitted.names)
    base = np.array([exact.get(n, 0.0) for n in names])
    certified = {n: n in admitted.certified for n in names}
    draws: list[Draw] = [_column_probes(risk, seed, admitted.names)] if sampled else []
    if curvature == "hessian":
        open_names = [n for n in names if not certified[n]]
        draw = _hessian_probes(risk, seed, open_names, admitted.names)
    else:
        open_names = [n for n in names if n not in admitted.names]
        draw = _gauss_newton_probes(risk, seed, open_names)
    probes, converged = np.zeros((0, len(names))), True
    if open_names:
        draws.append(draw)
    if draws:
        target = Target(weights, rtol, confidence)
        least = MIN_PROBES if open_names else COLUMN_PROBES
        probes, converged = _until(draws, base, target, (least, max_probes), progress)
    return LayerTraces(
        names=names,
        base=base,
        probes=probes,
        exact_hessian=certified,
        converged=converged,
        notes=_notes(open_names, sampled, len(probes)),
    )


def _columns(risk: EmpiricalRisk) -> int:
    """Columns of the factor of the loss's curvature, for one sample."""
    x, y = next(risk.batches())
    with torch.no_grad():
        return risk.loss.columns(risk.outputs(risk.theta, x[:1]), y[:1])


Draw = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Target:
    """When there are enough probes: a weighted sum's interval is narrow enough."""

    weights: Callable[[np.ndarray], np.ndarray]
    rtol: float
    confidence: float

    def met(self, base: np.ndarray, rows: np.ndarray) -> bool:
        """The half-width of the sum's interval is within the tolerance."""
        values = base + rows.mean(0)
        w = self.weights(values)
        error = float((rows @ w).std(ddof=1)) / len(rows) ** 0.5
        width = student_quantile(len(rows), self.confidence) * error
        # A stop on an interval that happens to be narrow would cover too seldom: few probes must
        # clear the tolerance by more.
        width *= 1 + CAUTION / len(rows)
        return bool(width <= self.rtol * abs(float(values @ w)))


def _until(
    draws: Sequence[Draw],
    base: np.ndarray,
    target: Target,
    limits: tuple[int, int],
    progress: Callable[[str], None],
) -> tuple[np.ndarray, bool]:
    """Draw blocks of probes, each a sum of what is drawn, until the target is met."""
    rows = np.zeros((0, len(base)))
    least, max_probes = limits
    while True:
        stop = min(len(rows) + (PROBE_BLOCK if len(rows) else least), max_probes)
        rows = np.concatenate([rows, sum(draw(len(rows), stop) for draw in draws)])
        progress(f"layer traces: probe {len(rows)}")
        if len(rows) > 1 and target.met(base, rows):
            return rows, True
        if len(rows) >= max_probes:
            return rows, False


def _column_probes(risk: EmpiricalRisk, seed: int, admitted: frozenset[str]) -> Draw:
    """Rows of ghost traces, each from one random column per sample that all tensors share."""

    def draw(first: int, stop: int) -> np.ndarray:
        traces = probed_traces(risk, admitted, range(first, stop), seed)
        nothing = np.zeros(stop - first)
        return np.stack([traces.get(n, nothing) for n in risk.space.names], axis=1)

    return draw


def _gauss_newton_probes(risk: EmpiricalRisk, seed: int, wanted: list[str]) -> Draw:
    """Rows of ``‖(Jᵀ S ε)_l‖² / N``; signs are independent, so groups add without cross terms.

    The groups are the same whatever the batch size, or the value would follow it.
    """
    columns = [risk.space.names.index(n) for n in wanted]

    def draw(first: int, stop: int) -> np.ndarray:
        rows = np.zeros((stop - first, len(risk.space.names)))
        for row, probe in enumerate(range(first, stop)):
            start = 0
            for group in risk.groups(PROBE_GROUP):
                total = torch.zeros(risk.space.dim, dtype=torch.float64, device=risk.device)
                for x, y in group:
                    point = risk.theta.detach().requires_grad_()
                    z = risk.outputs(point, x)
                    signs = output_signs(risk, z, seed, probe, start)
                    cotangent = risk.loss.probe(z.detach(), y, signs)
                    (g,) = torch.autograd.grad(z, point, cotangent, materialize_grads=True)
                    total += g
                    start += len(x)
                rows[row] += _block_sums(risk, total.square())
            risk.cost.add(GRADIENT)
        masked = np.zeros_like(rows)
        masked[:, columns] = rows[:, columns] / risk.normalizer
        return masked

    return draw


def _hessian_probes(
    risk: EmpiricalRisk, seed: int, wanted: list[str], admitted: frozenset[str]
) -> Draw:
    """Rows of ``v_lᵀ(Hv)_l``, less ``v_lᵀ(Gv)_l`` where the exact Gauss-Newton trace is known."""
    names = risk.space.names
    hessian, gauss_newton = HessianOperator(risk), GaussNewtonOperator(risk)
    varied = np.array([n in admitted and n in wanted for n in names])
    mask = np.array([n in wanted for n in names])

    def draw(first: int, stop: int) -> np.ndarray:
        V = torch.stack([_rademacher(risk, seed, i) for i in range(first, stop)])
        rows = np.stack([_block_sums(risk, r) for r in V.double() * hessian.matmat(V).double()])
        if varied.any():
            G = V.double() * gauss_newton.matmat(V).double()
            rows -= np.stack([_block_sums(risk, r) for r in G]) * varied
        masked: np.ndarray = rows * mask
        return masked

    return draw


def _rademacher(risk: EmpiricalRisk, seed: int, index: int) -> Tensor:
    generator = derived_generator(seed, "parameter probe", index)
    signs = torch.randint(0, 2, (risk.space.dim,), generator=generator, dtype=torch.int8)
    return (2 * signs - 1).to(risk.device, risk.dtype)


def _block_sums(risk: EmpiricalRisk, flat: Tensor) -> np.ndarray:
    parts = flat.split(risk.space.sizes)
    sums: np.ndarray = torch.stack([p.sum() for p in parts]).cpu().numpy()
    return sums


def _notes(open_names: list[str], sampled: bool, probes: int) -> tuple[str, ...]:
    notes = []
    if sampled:
        notes.append(f"many classes: {probes} random columns per sample in layer traces")
    if open_names:
        some = ", ".join(open_names[:3]) + (", …" if len(open_names) > 3 else "")
        notes.append(
            f"traces of {len(open_names)} tensors ({some}) were estimated from {probes} probes"
        )
    return tuple(notes)
