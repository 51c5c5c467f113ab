"""The trace of the Hessian, and of each tensor's diagonal block.

Definition::

    Tr H = Σ_l T_l,   T_l = Tr ∇²_{w_l} L(θ)

weight decay λ included where the risk has one (it adds λ times the number of entries). Where
everything after a layer is piecewise linear its block equals the Gauss-Newton matrix's, whose trace
is computed exactly from activations and cotangents (ghost traces). Elsewhere that exact part serves
as control variate for Hutchinson's estimator, ``T_l = T_l(G) + E[v_l^T ((H − G) v)_l]`` over random
signs v, with one product shared by all tensors; and where that would take many, a sketch of the
first products takes out what is large (Hutch++, see flatmeter.curvature.deflated_traces). With
``method=xtrace`` nothing but products with H is used, and only the whole trace is known.

Invariant to: permutations of hidden units; *not* to rescaling (see minimum_sharpness).
Requires: a loss and a network with second derivatives.
Cost: one forward pass and one activation-only backward pass per class where it is exact, else 36 to
200 Hessian and Gauss-Newton products together; with ``method=xtrace`` at least 18 products, and one
vector of memory for each.
Known failure: where the trace is near zero, because positive and negative curvature cancel, a
relative tolerance cannot be met; the standard error still holds.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from flatmeter.curvature.deflated_traces import hessian_traces
from flatmeter.curvature.layer_traces import LayerTraces
from flatmeter.curvature.products import HessianOperator
from flatmeter.measures.base import Measure, Measurement, MeasureSettings, Part
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense, exact_traces
from flatmeter.risk.cost import GRADIENT, PRODUCT
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.xtrace import BLOCK, xtrace


class Settings(MeasureSettings):
    """Options of the Hessian's trace."""

    method: Literal["auto", "hutchinson", "hutchpp", "xtrace"] = Field(
        "auto",
        description="hutchinson, hutchpp with a sketch, auto: which takes fewer products, or "
        "xtrace: of the whole Hessian, no tensors",
    )
    max_probes: int = Field(
        500,
        ge=2,
        description="most probes where the trace is not exact; --max-products comes first",
    )


class HessianTrace(Measure):
    """Trace of the loss's Hessian, with each tensor's share."""

    name = "hessian_trace"
    title = "Hessian trace"
    reference = "Hutchinson 1990; Hutch++, arXiv 2010.09649; block traces as in arXiv 2106.12612"
    invariant_to = ("permutations of hidden units",)
    requires = ("second derivatives",)
    quantities = ("value",)
    effort = ("max_probes",)
    Settings = Settings

    def expense(self, columns: int) -> Expense:
        """See the cost above."""
        settings: Settings = self.settings  # type: ignore[assignment]
        if settings.method != "xtrace":
            return exact_traces(columns)
        most = max(18, min(200, settings.max_probes))
        return Expense(18 * PRODUCT + GRADIENT, most * PRODUCT + GRADIENT, vectors=most)

    def compute(self, context: Context) -> Measurement:
        """Block traces and their sum."""
        settings: Settings = self.settings  # type: ignore[assignment]
        if settings.method == "xtrace":
            return self._whole(context, context.max_products or settings.max_probes)
        risk, saved = context.risk, context.saved
        traces = hessian_traces(
            risk,
            method=settings.method,
            seed=context.seed,
            rtol=context.rtol or 0.01,
            confidence=context.confidence,
            max_probes=context.max_products or settings.max_probes,
            saved=(str(saved["kind"]), saved["probes"]) if "kind" in saved else None,
            progress=context.progress,
        )
        decay = risk.weight_decay
        return Measurement(
            quantities={"value": traces.total.shifted(decay * risk.space.dim)},
            parts=_parts(risk, traces),
            notes=traces.notes,
            state={"probes": traces.probes, "kind": np.array(traces.kind)}
            if len(traces.probes)
            else {},
        )

    def _whole(self, context: Context, most: int) -> Measurement:
        """The sum alone, from at most so many products."""
        risk = context.risk
        found = xtrace(
            HessianOperator(risk.without_weight_decay()),
            rtol=context.rtol or 0.01,
            confidence=context.confidence,
            max_products=max(most, 2 * BLOCK),
            seed=context.seed,
            progress=context.progress,
        )
        return Measurement(
            quantities={"value": found.estimate.shifted(risk.weight_decay * risk.space.dim)},
            notes=(
                f"method=xtrace: {found.products} products; tensors have no values of their own, "
                "since each probe is measured on what the others left of the whole Hessian",
            ),
            state={"values": found.values},
        )


def _parts(risk: EmpiricalRisk, traces: LayerTraces) -> tuple[Part, ...]:
    sizes = dict(zip(risk.space.names, risk.space.sizes, strict=True))
    return tuple(
        Part(name, "value", estimate.shifted(risk.weight_decay * sizes[name]))
        for name, estimate in traces.estimates.items()
    )
