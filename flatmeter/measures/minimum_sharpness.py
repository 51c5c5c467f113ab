"""Minimum sharpness: the smallest trace of curvature among all rescalings of the network.

Definition (Ibayashi, Hamaguchi, Imaizumi 2021, arXiv 2106.12612, section 4), with A the scaling
symmetries of the network and T_j the trace of tensor j's diagonal curvature block::

    MS(θ) = min_{a ∈ A} Tr H(e^a θ) = min_{a ∈ A} Σ_j T_j e^{-2 a_j}

The sum is convex in a and is minimised by Newton's method, so the value is that of the minimum, not
of where an optimiser stopped. With ``granularity: neuron`` every channel may be rescaled by itself,
which is a matrix-balancing problem in the diagonal of the curvature; its value is never larger.

Invariant to: the scaling symmetries found in the network (per channel at neuron granularity).
Requires: an exported graph; a loss that is convex in the outputs.
Cost: one forward pass and one activation-only backward pass per class for exact traces.
Not to be trusted: where ``attained`` is false the minimum lies at infinity (a dead layer), and with
batch statistics every weight before a batch-norm may grow for ever, which leaves little to measure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from flatmeter.curvature.data_error import DataGroups
from flatmeter.curvature.euler import idle_tensors
from flatmeter.curvature.ghost import eligible, exact_diagonal
from flatmeter.curvature.layer_traces import LayerTraces, layer_traces
from flatmeter.errors import NotApplicable
from flatmeter.estimate import Estimate, Why
from flatmeter.measures.base import Measure, Measurement, MeasureSettings, Part
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense, exact_traces
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.symmetry.balance import TOLERANCE, balance
from flatmeter.symmetry.group import SymmetryGroup
from flatmeter.symmetry.minimise import Minimum, minimise

#: Rounds of rescaling tensors and channels in turn; one is enough where channels are all there is.
MAX_ROUNDS = 50


class Settings(MeasureSettings):
    """Options of minimum sharpness."""

    curvature: Literal["ggn", "hessian"] = Field(
        "ggn", description="traces of the Gauss-Newton matrix (never negative) or of the Hessian"
    )
    granularity: Literal["layer", "neuron"] = Field(
        "layer", description="rescale whole tensors, or every channel by itself"
    )
    max_probes: int = Field(
        500,
        ge=2,
        description="most probes for tensors without exact traces; --max-products comes first",
    )


class MinimumSharpness(Measure):
    """min over rescalings of the trace of curvature (arXiv 2106.12612)."""

    name = "minimum_sharpness"
    title = "Minimum sharpness"
    reference = "Ibayashi, Hamaguchi, Imaizumi 2021, arXiv 2106.12612"
    invariant_to = ("scaling symmetries of tensors", "of channels with granularity=neuron")
    requires = ("an exported graph", "a loss convex in the outputs")
    default_bn = "eval"
    quantities = ("value",)
    effort = ("max_probes",)
    Settings = Settings

    def expense(self, columns: int) -> Expense:
        """See the cost above."""
        return exact_traces(columns)

    def compute(self, context: Context) -> Measurement:
        """Traces, then the minimum over the group."""
        settings: Settings = self.settings  # type: ignore[assignment]
        risk = context.risk.without_weight_decay()
        group = context.group()

        def weights(values: np.ndarray) -> np.ndarray:
            """Of the sum whose error matters: by the envelope theorem, that at the minimiser."""
            return _weights(minimise(np.maximum(values, 0.0), group.basis))

        traces = layer_traces(
            risk,
            curvature=settings.curvature,
            seed=context.seed,
            rtol=context.rtol or 0.01,
            confidence=context.confidence,
            max_probes=max(2, context.max_products or settings.max_probes),
            weights=weights,
            saved=context.saved.get("probes"),
            progress=context.progress,
        )
        _refuse_negative(traces)
        minimum = minimise(np.maximum(traces.values, 0.0), group.basis)
        estimate = traces.combination(_weights(minimum))
        notes = [*traces.notes, *group.notes, *_attained(minimum, traces.names)]
        if settings.curvature == "ggn" and not all(traces.exact_hessian.values()):
            notes.append(_gauss_newton_note(traces))
        if settings.granularity == "neuron":
            estimate, extra = _neuron(context, group)
            notes += extra
        return Measurement(
            quantities={"value": estimate},
            parts=_parts(traces, minimum, group.basis),
            notes=tuple(notes),
            state={"probes": traces.probes} if len(traces.probes) else {},
        )


def _weights(minimum: Minimum) -> np.ndarray:
    """``e^{-2a}`` at the minimiser, nothing for terms that fall to nothing."""
    weights: np.ndarray = np.exp(-2.0 * minimum.log_scales)
    weights[list(minimum.dropped)] = 0.0
    return weights


def _refuse_negative(traces: LayerTraces) -> None:
    values, names = traces.values, np.array(traces.names)
    errors = np.array([e.stderr for e in traces.estimates.values()])
    scale = float(np.abs(values).max()) if len(values) else 0.0
    negative = values < -np.maximum(3.0 * errors, 1e-12 * scale)
    if negative.any():
        raise NotApplicable(
            f"the Hessian's trace is negative in {', '.join(names[negative][:3])}, so the sum has "
            "no minimum over rescalings",
            hint="use curvature=ggn, which is never negative",
        )


def _attained(minimum: Minimum, names: tuple[str, ...]) -> list[str]:
    if minimum.attained:
        return []
    dropped = [names[j] for j in minimum.dropped]
    some = ", ".join(dropped[:3]) + (", …" if len(dropped) > 3 else "")
    return [f"attained = false: the terms of {some} fall to zero along a rescaling without end"]


def _gauss_newton_note(traces: LayerTraces) -> str:
    inexact = sum(not exact for exact in traces.exact_hessian.values())
    return (
        f"exact_hessian = false for {inexact} of {len(traces.names)} tensors: their value is the "
        "Gauss-Newton matrix's"
    )


def _parts(traces: LayerTraces, minimum: Minimum, basis: np.ndarray) -> tuple[Part, ...]:
    moves = _scale_moves(traces, _weights(minimum), basis)
    errors = _scale_errors(traces, moves)
    parts = []
    for i, (name, estimate) in enumerate(traces.estimates.items()):
        parts.append(Part(name, "trace", estimate))
        scale = _log_scale(float(minimum.log_scales[i]), float(errors[i]), traces)
        data = traces.data_error(moves[:, i])
        parts.append(Part(name, "log_scale", replace(scale, data_stderr=data)))
    return tuple(parts)


def _log_scale(value: float, error: float, traces: LayerTraces) -> Estimate:
    if error == 0.0:
        return Estimate.of_exact(value)
    why = Why.INTERVAL if traces.converged else Why.BUDGET
    return Estimate(value, error, n=len(traces.probes), converged=traces.converged, why=why)


def _scale_errors(traces: LayerTraces, moves: np.ndarray) -> np.ndarray:
    """Standard errors of the log-scales ``[n]`` from those of the traces."""
    count = len(traces.probes)
    if count < 2:
        return np.zeros(len(moves))
    errors: np.ndarray = (traces.probes @ moves).std(axis=0, ddof=1) / count**0.5
    return errors


def _scale_moves(traces: LayerTraces, weights: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Derivatives of the log-scales in the traces, ``[n traces, n scales]``.

    To first order: at the minimiser ``Eᵀ(w ∘ T) = 0`` with ``w = e^{-2a}``, so a change dT moves it
    by ``da = E (2 Eᵀ diag(w ∘ T) E)⁻¹ Eᵀ(w ∘ dT)``.
    """
    terms = np.maximum(traces.values, 0.0) * weights
    hessian = 2.0 * basis.T @ (terms[:, None] * basis)
    moves: np.ndarray = weights[:, None] * (basis @ np.linalg.pinv(hessian) @ basis.T)
    return moves


def _neuron(context: Context, group: SymmetryGroup) -> tuple[Estimate, list[str]]:
    """Rescale tensors and channels in turn: the sum is convex in all of them together.

    It is the minimum where no scale of tensors and none of channels changes it to first order.
    """
    space = context.risk.space
    risk = context.risk.without_weight_decay()
    ways = _known_diagonal(risk)
    original = space.flatten(_diagonal(risk, *ways)).cpu().numpy()
    diagonal = original.copy()
    attained, imbalance = True, np.inf
    for _ in range(MAX_ROUNDS):
        minimum = minimise(np.add.reduceat(diagonal, space.offsets[:-1]), group.basis)
        diagonal *= np.repeat(_weights(minimum), space.sizes)
        balanced = balance(diagonal, group.channels)
        factors = group.channels.factors(torch.from_numpy(balanced.log_scales)).numpy()
        # What falls to nothing holds nothing up in the rounds that follow.
        diagonal *= balanced.held / factors**2
        attained = attained and minimum.attained and balanced.attained
        sums = np.add.reduceat(diagonal, space.offsets[:-1])
        slope = float(np.abs(group.basis.T @ sums).max(initial=0.0))
        imbalance = max(balanced.imbalance, slope / max(balanced.value, 1e-300))
        if imbalance <= TOLERANCE:
            break
    value = balanced.value
    notes = [] if attained else ["attained = false: the value is an infimum over channel scales"]
    estimate = Estimate.of_exact(value)
    if imbalance > TOLERANCE:
        # The rounds come down to the minimum from above.
        estimate = Estimate(value, n=balanced.sweeps, converged=False, why=Why.BUDGET)
    groups = DataGroups.of(risk)
    if groups is not None:
        # Once more for the samples' shares: diagonals of all groups at once would fill the memory.
        weights = np.divide(diagonal, original, out=np.zeros_like(diagonal), where=original > 0)
        w = torch.from_numpy(weights).to(risk.device)
        forms = groups.sums(lambda part: w @ space.flatten(_diagonal(part, *ways)))
        estimate = estimate.of_sample(float(groups.stderr(forms)))
    return estimate, notes


def _known_diagonal(risk: EmpiricalRisk) -> tuple[frozenset[str], frozenset[str]]:
    """Parameters whose diagonal is known exactly, and those whose diagonal is zero.

    Raises:
        NotApplicable: a parameter is neither.
    """
    admitted = eligible(risk).names
    missing = frozenset(risk.space.names) - admitted
    # What the outputs do not depend on has no curvature, though no operator may know it.
    idle = missing & idle_tensors(risk) if missing else frozenset()
    missing -= idle
    if missing:
        raise NotApplicable(
            "granularity=neuron needs the exact diagonal of the curvature, and "
            f"{min(missing)} is used in a way that has none",
            hint="use granularity=layer",
        )
    return admitted, idle


def _diagonal(
    risk: EmpiricalRisk, admitted: frozenset[str], idle: frozenset[str]
) -> dict[str, torch.Tensor]:
    """The exact diagonal of the Gauss-Newton matrix."""
    shapes = dict(zip(risk.space.names, risk.space.shapes, strict=True))
    nothing = {
        name: torch.zeros(shapes[name], dtype=torch.float64, device=risk.device) for name in idle
    }
    return nothing | exact_diagonal(risk, admitted)
