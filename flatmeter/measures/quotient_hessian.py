"""Quotient-manifold Hessian: curvature that no rescaling of the network's tensors can change.

Definition (Rangamani, Nguyen, Kumar, Phan, Chin, Tran 2019, arXiv 1902.02434): with the metric
``⟨ξ, ζ⟩_θ = Σ_b ⟨ξ_b, ζ_b⟩ / ‖w_b‖²`` over blocks b, every scaling of a block is an isometry, and
the loss has a Riemannian Hessian on the quotient by the scaling symmetries. In the frame
``x_b = ξ_b / ‖w_b‖``, with ``D = diag(‖w_b‖)``, ``ŵ = w/‖w‖`` and ``g̃_b = ‖w_b‖ g_b``::

    A x = D H D x + blockdiag_b( ŵ g̃ᵀ + g̃ ŵᵀ − ⟨ŵ, g̃⟩ I ) x

The second term is the Levi-Civita connection. ``hessian=scaled`` leaves it out, as the authors'
programs do: just as invariant, but where the gradient is not zero it sees curvature along
directions in which the network's function is constant, unless ``project`` removes those. The full
operator sends them to zero by itself. The paper normalises the largest eigenvalue by 2 + 2L.

Invariant to: the scaling symmetries of tensors; with ``blocks=row`` also those of the rows that
batch statistics free. *Not* to neuron-wise rescaling, which the block-wise metric does not see.
Requires: second derivatives. Weight decay is left out, since it is not invariant.
Cost: 25 to 80 Hessian products (most where the smallest eigenvalue is close to zero), and the
layer traces of hessian_trace.
Known failure: a block of norm zero (a fresh bias) has no metric; it is left out and listed. The
trace adds terms of both signs as large as the number of weights times the gradient, so in float32
it may lose digits.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from flatmeter.curvature.data_error import DataGroups
from flatmeter.curvature.layer_traces import layer_traces
from flatmeter.curvature.products import HessianOperator
from flatmeter.estimate import Estimate
from flatmeter.measures.base import Measure, Measurement, MeasureSettings
from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense, exact_traces
from flatmeter.measures.quotient_data_error import with_data_errors
from flatmeter.measures.quotient_metric import (
    Blocks,
    Connection,
    Frame,
    block_frame,
    vertical_basis,
)
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.lanczos import lanczos
from flatmeter.spectral.operator import Operator, Projected, Restricted, Scaled, Summed
from flatmeter.spectral.ritz import attainable
from flatmeter.spectral.spectrum import Spectrum
from flatmeter.spectral.trace import MIN_PROBES, hutchinson


class Settings(MeasureSettings):
    """Options of the quotient Hessian."""

    hessian: Literal["riemann", "scaled"] = Field(
        "riemann", description="the Riemannian Hessian, or D H D without the connection"
    )
    project: bool = Field(
        False, description="remove the tensor-wise symmetry directions; matters with scaled only"
    )
    blocks: Blocks = Field(
        "tensor", description="one block per tensor, or per row that batch statistics free"
    )
    max_products: int = Field(
        200, ge=1, description="most products for the eigenvalues; --max-products comes first"
    )
    max_probes: int = Field(
        500,
        ge=2,
        description="most probes where the trace is not exact; --max-products comes first",
    )


class QuotientHessian(Measure):
    """Spectrum of the Riemannian Hessian on the quotient by rescalings (arXiv 1902.02434)."""

    name = "quotient_hessian"
    title = "Quotient-manifold Hessian"
    reference = "Rangamani et al. 2019, arXiv 1902.02434"
    invariant_to = ("scaling symmetries of tensors", "of rows with blocks=row")
    requires = ("second derivatives",)
    default_bn = "eval"
    quantities = ("lambda_max", "lambda_min", "abs_max", "trace", "gradient_norm", "normalized")
    effort = ("max_products", "max_probes")
    Settings = Settings

    def expense(self, columns: int) -> Expense:
        """See the cost above."""
        settings: Settings = self.settings  # type: ignore[assignment]
        return Expense.of_lanczos(25, 80, settings.max_products).plus(exact_traces(columns))

    def compute(self, context: Context) -> Measurement:
        """The metric's frame, the operator in it, and its spectrum."""
        settings: Settings = self.settings  # type: ignore[assignment]
        risk = context.risk.without_weight_decay()
        frame = block_frame(risk, settings.blocks, context.group)
        context.progress("quotient Hessian: gradient")
        loss, gradient = risk.value_and_gradient()
        connection = Connection(frame, gradient[frame.index])
        operator = self._operator(risk, frame, connection)
        trace, layers, probes = self._trace(context, risk, frame, connection)
        notes = self._notes(frame)
        basis = None
        if settings.project:
            notes = (*context.group().notes, *notes)
            basis = vertical_basis(risk, context.group(), frame)
            removed = float((basis.double() * operator.matmat(basis).double()).sum())
            operator, trace = Projected(operator, basis), trace.shifted(-removed)
        spectrum = lanczos(
            operator,
            rtol=context.rtol or attainable(1e-4, operator.noise),
            criterion="residual",
            max_products=context.max_products or settings.max_products,
            seed=context.seed,
            progress=context.progress,
        )
        quantities = _quantities(spectrum, trace, float(connection.gradient.norm()), loss)
        groups = DataGroups.of(risk)
        if groups is not None:
            context.progress("quotient Hessian: groups of samples")
            quantities = with_data_errors(
                groups,
                quantities,
                frame,
                lambda part, linked: self._operator(part, frame, linked),
                (spectrum.vectors_largest[0], spectrum.vectors_smallest[0]),
                lambda linked, whole: self._rest_of_trace(linked, whole, basis),
                layers,
                connection.gradient,
            )
        return Measurement(
            quantities=quantities,
            notes=notes,
            state={
                "alphas": spectrum.alphas.numpy(),
                "betas": spectrum.betas.numpy(),
                "probes": probes,
            },
        )

    def _operator(self, risk: EmpiricalRisk, frame: Frame, connection: Connection) -> Operator:
        scaled = Scaled(Restricted(HessianOperator(risk), frame.index), frame.norm)
        settings: Settings = self.settings  # type: ignore[assignment]
        return scaled if settings.hessian == "scaled" else Summed(scaled, connection)

    def _trace(
        self, context: Context, risk: EmpiricalRisk, frame: Frame, connection: Connection
    ) -> tuple[Estimate, Tensor | None, np.ndarray]:
        """``Σ_b ‖w_b‖² T_b``, and the connection's trace where it belongs to the operator.

        From exact layer traces where blocks are tensors; rows have none and take probes.

        Returns:
            The trace, the first sum for every group of samples where it is known, and the probes.
        """
        settings: Settings = self.settings  # type: ignore[assignment]
        rtol, layers = context.rtol or 0.01, None
        probes = max(2, context.max_products or settings.max_probes)
        if settings.blocks == "tensor":
            squares = risk.space.block_norms(risk.theta).square().cpu().numpy()
            traces = layer_traces(
                risk,
                curvature="hessian",
                seed=context.seed,
                rtol=rtol,
                confidence=context.confidence,
                max_probes=probes,
                weights=lambda _: squares,
                saved=context.saved.get("probes"),
                progress=context.progress,
            )
            scaled, values = traces.combination(squares), traces.probes
            if traces.group_sums is not None:
                layers = torch.from_numpy(traces.group_sums @ squares)
        else:
            found = hutchinson(
                Scaled(Restricted(HessianOperator(risk), frame.index), frame.norm),
                rtol=rtol,
                confidence=context.confidence,
                min_probes=min(MIN_PROBES, probes),
                max_probes=probes,
                seed=context.seed,
                purpose="quotient trace",
                values=context.saved.get("probes"),
                progress=context.progress,
            )
            scaled, values = found.estimate, found.values
        linked = settings.hessian == "riemann"
        return scaled.shifted(connection.trace if linked else 0.0), layers, values

    def _rest_of_trace(
        self, connection: Connection, operator: Operator, basis: Tensor | None
    ) -> Tensor:
        """What the trace has besides the layers': the connection's, less what was projected out."""
        linked = self.settings.hessian == "riemann"  # type: ignore[attr-defined]
        rest = torch.tensor(connection.trace if linked else 0.0, dtype=torch.float64)
        if basis is None:
            return rest
        return rest - (basis.double() * operator.matmat(basis).double()).sum().cpu()

    def _notes(self, frame: Frame) -> tuple[str, ...]:
        settings: Settings = self.settings  # type: ignore[assignment]
        notes = []
        if frame.skipped:
            listed = ", ".join(frame.skipped)
            notes.append(f"blocks of norm zero have no metric and are left out: {listed}")
        if settings.blocks == "row" and frame.rows == 0:
            notes.append("no row is free in this batch-norm mode: the blocks are the tensors")
        if settings.hessian == "scaled" and not settings.project:
            notes.append("scaled without project sees curvature along symmetry directions")
        return tuple(notes)


def _quantities(
    spectrum: Spectrum, trace: Estimate, gradient_norm: float, loss: float
) -> dict[str, Estimate]:
    top, bottom = spectrum.estimate_largest(), spectrum.estimate_smallest()
    extreme = top if top.value >= -bottom.value else bottom
    return {
        "lambda_max": top,
        "lambda_min": bottom,
        "abs_max": extreme if extreme.value >= 0 else extreme.scaled(-1.0),
        "trace": trace,
        "gradient_norm": Estimate.of_exact(gradient_norm),
        "normalized": top.scaled(1 / (2 + 2 * loss)),
    }
