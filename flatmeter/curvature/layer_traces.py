"""Traces of every tensor's diagonal curvature block: exact where they can be, else by probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flatmeter.curvature.certificate import unused_tensors
from flatmeter.curvature.data_error import DataGroups
from flatmeter.curvature.ghost import eligible, exact_traces
from flatmeter.curvature.trace_probes import (
    Draw,
    column_probes,
    gauss_newton_probes,
    hessian_probes,
)
from flatmeter.estimate import Estimate, Why, student_quantile
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.skewness import cautious_error
from flatmeter.spectral.trace import CAUTION, MIN_PROBES, drawn

Curvature = Literal["ggn", "hessian"]

#: With more columns than this the exact trace gives way to random columns.
EXACT_COLUMNS = 100
COLUMN_PROBES = 8
PROBE_BLOCK = 8
DATA_PROBES = 4
"""Probes that tell groups of samples apart; their own spread widens the error by a tenth or so."""


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
        groups: of the samples, where these are a sample of the data.
        group_sums: traces of every group's sum of losses, ``[G, n]``.
        kind: of the probes; those of one kind and run extend one another.
    """

    names: tuple[str, ...]
    base: np.ndarray
    probes: np.ndarray
    exact_hessian: Mapping[str, bool]
    converged: bool
    notes: tuple[str, ...] = ()
    groups: DataGroups | None = None
    group_sums: np.ndarray | None = None
    kind: str = "plain"

    @property
    def values(self) -> np.ndarray:
        """Trace of each block, ``[n]``."""
        means: np.ndarray = self.base + (self.probes.mean(0) if len(self.probes) else 0.0)
        return means

    def combination(self, weights: Sequence[float] | np.ndarray) -> Estimate:
        """``Σ_l weights_l T_l`` with the error of the sum (blocks share their probes)."""
        w = np.asarray(weights, dtype=np.float64)
        used = self.probes[:, w != 0] @ w[w != 0]
        error = float(cautious_error(used[:, None])[0]) if len(used) > 1 else 0.0
        if len(used) == 1 and used.any():
            error = float("inf")
        value, data = float(self.values @ w), self.data_error(w)
        if error == 0.0:
            return replace(Estimate.of_exact(value), data_stderr=data)
        why = Why.INTERVAL if self.converged else Why.BUDGET
        return Estimate(
            value, error, n=len(used), converged=self.converged, why=why, data_stderr=data
        )

    def data_error(self, weights: np.ndarray) -> float | None:
        """Standard error of ``Σ_l weights_l T_l`` from measuring on a sample of the data."""
        if self.groups is None or self.group_sums is None:
            return None
        return float(self.groups.stderr(torch.from_numpy(self.group_sums @ weights)))

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
    saved: np.ndarray | None = None,
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
        saved: plain probes ``[m, n]`` of an earlier run with the same risk, curvature and seed; the
            result is that of a run from scratch.
        progress: told what is being done; may raise to stop.

    Returns:
        The traces.
    """
    risk = risk.without_weight_decay()
    progress("exact layer traces")
    ways = Ways.of(risk, curvature, seed)
    groups, group_sums = DataGroups.of(risk), None
    if groups is None:
        base = ways.exact(risk)
    else:
        known = groups.sums(lambda part: torch.from_numpy(ways.exact(part)))
        base, group_sums = groups.mean(known).numpy(), known.numpy()
    probes, converged = np.zeros((0, len(risk.space.names))), True
    if draws := ways.draws(risk):
        target = Target(weights, rtol, confidence)
        least = MIN_PROBES if ways.open_names else COLUMN_PROBES
        earlier = probes if saved is None else saved[:max_probes]
        probes, converged = _until(draws, base, target, (least, max_probes), earlier, progress)
    if groups is not None and draws:
        progress("layer traces of groups of samples")
        group_sums = group_sums + groups.sums(ways.few_probes).numpy()
    return LayerTraces(
        names=risk.space.names,
        base=base,
        probes=probes,
        exact_hessian={n: n in ways.certified for n in risk.space.names},
        converged=converged,
        notes=_notes(ways.open_names, ways.sampled, len(probes)),
        groups=groups,
        group_sums=group_sums,
    )


@dataclass(frozen=True)
class Ways:
    """How the trace of every tensor is found; the same for the data and for a part of them.

    Args:
        curvature: of which matrix.
        seed: of the probes.
        admitted: tensors for which the ghost method holds.
        certified: tensors whose Gauss-Newton block is the Hessian's.
        sampled: the ghost method takes random columns.
        open_names: tensors that take probes in the space of the parameters.
    """

    curvature: Curvature
    seed: int
    admitted: frozenset[str]
    certified: frozenset[str]
    sampled: bool
    open_names: list[str]

    @classmethod
    def of(cls, risk: EmpiricalRisk, curvature: Curvature, seed: int) -> Ways:
        """As the network and the loss allow."""
        found = eligible(risk)
        unused = unused_tensors(risk)
        certified = found.certified | unused
        closed = (certified if curvature == "hessian" else found.names) | unused
        sampled = bool(found.names) and _columns(risk) > EXACT_COLUMNS
        open_names = [n for n in risk.space.names if n not in closed]
        return cls(curvature, seed, found.names, certified, sampled, open_names)

    def exact(self, risk: EmpiricalRisk) -> np.ndarray:
        """Deterministic part of every trace, ``[n]``."""
        admitted = frozenset() if self.sampled else self.admitted
        exact = exact_traces(risk, admitted) if admitted else {}
        return np.array([exact.get(n, 0.0) for n in risk.space.names])

    def draws(self, risk: EmpiricalRisk) -> list[Draw]:
        """Random parts, to be added up."""
        draws = [column_probes(risk, self.seed, self.admitted)] if self.sampled else []
        if self.open_names and self.curvature == "hessian":
            draws.append(hessian_probes(risk, self.seed, self.open_names, self.admitted))
        elif self.open_names:
            draws.append(gauss_newton_probes(risk, self.seed, self.open_names))
        return draws

    def few_probes(self, risk: EmpiricalRisk) -> Tensor:
        """Mean of the first few rows of the random parts, ``[n]``."""
        rows = sum(draw(0, DATA_PROBES) for draw in self.draws(risk))
        return torch.from_numpy(np.asarray(rows).mean(0))


def _columns(risk: EmpiricalRisk) -> int:
    """Columns of the factor of the loss's curvature, for one sample."""
    x, y = risk.example_inputs(1), risk.data.targets[:1].to(risk.device)
    with torch.no_grad():
        return risk.loss.columns(risk.outputs(risk.theta, x), y)


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
        error = float(cautious_error((rows @ w)[:, None])[0])
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
    saved: np.ndarray,
    progress: Callable[[str], None],
) -> tuple[np.ndarray, bool]:
    """Draw blocks of probes, each a sum of what is drawn, until the target is met."""
    least, most = limits

    def draw(first: int, last: int) -> np.ndarray:
        return np.asarray(sum(each(first, last) for each in draws))

    def met(rows: np.ndarray) -> bool:
        enough = len(rows) >= max(2, min(least, most))
        return enough and target.met(base, rows)

    def enough(rows: np.ndarray) -> bool:
        progress(f"layer traces: probe {len(rows)}")
        return met(rows)

    rows = drawn(draw, saved, PROBE_BLOCK, most, enough)
    return rows, met(rows)


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
