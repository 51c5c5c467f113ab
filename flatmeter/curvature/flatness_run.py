"""One layer's sums by whichever computation was chosen, sharing passes where layers can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmeter.curvature.closed_form import ClosedForm
from flatmeter.curvature.flatness_plan import Computation, Method
from flatmeter.curvature.flatness_sums import FeatureMoments, RowBlocks, Scales, Weighing
from flatmeter.curvature.linear_layers import LinearLayer, call_of, watched
from flatmeter.curvature.matrix_view import MatrixView
from flatmeter.curvature.output_columns import (
    Job,
    column_sums,
    passed_maxima,
    probed_column_sums,
)
from flatmeter.curvature.output_hessian import exact_sums, probed_sums
from flatmeter.curvature.row_eigenvalues import RowMaxima
from flatmeter.curvature.weight_block import block_forms, block_maxima, block_sums, weight_block
from flatmeter.estimate import Estimate, Why, student_quantile
from flatmeter.risk.cost import FORWARD
from flatmeter.risk.empirical import EmpiricalRisk

PROBE_BLOCK = 8
#: Most numbers in one vector per row for Lanczos to keep a basis of them.
ROW_VECTORS = 2**21


@dataclass(frozen=True)
class Options:
    """How relative flatness is computed.

    Args:
        method: see :func:`flatmeter.curvature.flatness_plan.choose`.
        bias: the matrix is ``[W, b]`` and the features ``[φ; 1]``.
        affine: convolutions are read as their unrolled matrices.
        rtol: relative tolerance of probes (half-width of the interval) and of eigenvalues; by
            default 0.05 for probes, 1e-6 for eigenvalues, and 1e-3 for those of which every
            product is a pass over the data.
        confidence: coverage of the interval.
        max_probes: most probes.
        seed: of the run.
        progress: told what is being done; may raise to stop.
    """

    method: Method = "auto"
    bias: bool = False
    affine: bool = False
    rtol: float | None = None
    confidence: float = 0.95
    max_probes: int = 200
    seed: int = 0
    progress: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Plan:
    """A layer, its view and the computation chosen for it."""

    layer: LinearLayer
    view: MatrixView
    kind: Computation


@dataclass(frozen=True)
class Sums:
    """What a computation gives.

    Args:
        values: κ_Tr, κ_nw and Tr H: ``[3]``, or one column per probe, ``[3, k]``.
        scales: of the features; ``None`` where one call does not see all of them.
        maxima: gives those of the rows' blocks; ``None`` where they are too costly.
        settled: probes met the tolerance.
        forms: of the rows' blocks for given vectors, see :meth:`RowBlocks.forms`.
        closed: the closed form behind them.
    """

    values: Tensor
    scales: Scales | None
    maxima: Callable[[], RowMaxima | None] = lambda: None
    settled: bool = True
    forms: Callable[[Tensor], Tensor | None] = lambda vectors: None
    closed: ClosedForm | None = None

    def estimate(self, i: int) -> Estimate:
        """The ``i``-th sum."""
        if self.values.dim() == 1:
            return Estimate.of_exact(float(self.values[i]))
        return _of_probes(self.values[i], self.settled)


class Run:
    """Computes the sums of several layers.

    Args:
        risk: the empirical risk, without weight decay.
        options: how.
        plans: the layers.
        scales: of the layers' features by name, where they are known.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        options: Options,
        plans: Sequence[Plan],
        scales: Mapping[str, Scales] | None = None,
    ) -> None:
        self.risk, self.options = risk, options
        self.alone = len(plans) == 1
        opened = [p for p in plans if p.kind is not Computation.CLOSED]
        if scales is None:
            scales = feature_scales(risk, [p for p in opened if p.layer.uses == 1])
        self.scales = scales
        self.jobs = {p.layer.name: self._job(p) for p in opened}
        self.columns: Mapping[str, Tensor] = {}
        self.column_probes: Mapping[str, Tensor] = {}
        if jobs := [self.jobs[p.layer.name] for p in plans if p.kind is Computation.COLUMNS]:
            options.progress(f"relative flatness: Gauss-Newton columns of {len(jobs)} layers")
            self.columns = column_sums(risk, jobs)
        if jobs := [self.jobs[p.layer.name] for p in plans if p.kind is Computation.COLUMN_PROBES]:
            self.column_probes = self._until_settled(
                lambda probes: probed_column_sums(risk, jobs, probes, options.seed)
            )

    def _job(self, plan: Plan) -> Job:
        g, _, m = plan.view.weight.shape
        nothing = plan.view.weight.new_zeros(g, m)
        scales = self.scales.get(plan.layer.name, Scales(nothing, nothing, 0))
        rows = RowBlocks(plan.view, self.risk.n, single=plan.view.positions == 1)
        return Job(plan.layer, Weighing(plan.view, scales), rows)

    def sums(self, plan: Plan) -> Sums:
        """One layer's sums."""
        self.options.progress(f"relative flatness: {plan.layer.name}")
        if plan.kind is Computation.CLOSED:
            closed = ClosedForm(self.risk, plan.layer, plan.view)
            values = closed.run()
            return Sums(
                values,
                closed.scales,
                lambda: self._kept_maxima(closed.rows),
                forms=closed.rows.forms,
                closed=closed,
            )
        job, scales = self.jobs[plan.layer.name], self.scales.get(plan.layer.name)
        if plan.kind is Computation.BLOCK:
            block = weight_block(self.risk, plan.layer, plan.view)
            return Sums(
                block_sums(block, job.weighing),
                scales,
                lambda: block_maxima(block),
                forms=lambda vectors: block_forms(block, vectors),
            )
        if plan.kind is Computation.COLUMNS:
            return Sums(
                self.columns[plan.layer.name],
                scales,
                lambda: self._column_maxima(job),
                forms=job.rows.forms,
            )
        if plan.kind is Computation.EXACT:
            values = exact_sums(self.risk, plan.layer, job.weighing, job.rows)
            return Sums(values, scales, lambda: self._kept_maxima(job.rows), forms=job.rows.forms)
        probes = self.column_probes.get(plan.layer.name)
        if probes is None:
            probes = self._output_probes(job)
        return Sums(probes, scales, settled=self._settled(probes))

    def _output_probes(self, job: Job) -> Tensor:
        def draw(probes: range) -> dict[str, Tensor]:
            seed = self.options.seed
            return {"": probed_sums(self.risk, job.layer, job.weighing, probes, seed)}

        return self._until_settled(draw)[""]

    def _until_settled(self, draw: Callable[[range], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Probes ``[3, k]`` by layer, until each layer's trace is within the tolerance."""
        rows: dict[str, Tensor] = {}
        for start in range(0, self.options.max_probes, PROBE_BLOCK):
            stop = min(start + PROBE_BLOCK, self.options.max_probes)
            self.options.progress(f"relative flatness: probe {stop}")
            new = draw(range(start, stop))
            rows = {n: torch.cat([rows[n], t], 1) if n in rows else t for n, t in new.items()}
            if all(self._settled(t) for t in rows.values()):
                break
        return rows

    def _settled(self, probes: Tensor) -> bool:
        trace = _of_probes(probes[0], True)
        half = student_quantile(trace.n, self.options.confidence) * trace.stderr
        return half <= (self.options.rtol or 0.05) * abs(trace.value)

    def _kept_maxima(self, rows: RowBlocks) -> RowMaxima | None:
        rtol = self.options.rtol or 1e-6
        return rows.maxima(self.risk, seed=self.options.seed, rtol=rtol)

    def _column_maxima(self, job: Job) -> RowMaxima | None:
        """From what was kept, else by passes over the data where only one layer wants them."""
        if job.rows.kept:
            return self._kept_maxima(job.rows)
        if not self.alone or job.weighing.view.weight.numel() > ROW_VECTORS:
            return None
        rtol = self.options.rtol or 1e-3
        return passed_maxima(
            self.risk, job, seed=self.options.seed, rtol=rtol, progress=self.options.progress
        )


def _of_probes(values: Tensor, settled: bool) -> Estimate:
    n = len(values)
    error = float(values.std()) / n**0.5 if n > 1 else float("inf")
    why = Why.INTERVAL if settled else Why.BUDGET
    return Estimate(float(values.mean()), error, n=n, converged=settled, why=why)


def feature_scales(risk: EmpiricalRisk, plans: Sequence[Plan]) -> dict[str, Scales]:
    """Standard deviations of the layers' features by layer name, in one forward pass."""
    if not plans:
        return {}
    moments = {p.layer.name: FeatureMoments(p.view, risk.dtype) for p in plans}
    for x, _ in risk.batches():
        with torch.no_grad():
            _, watch = watched(risk, x)
        for plan in plans:
            a = plan.view.inputs(call_of(watch, plan.layer))
            moments[plan.layer.name].add(a.transpose(1, 2).flatten(0, 1))
        risk.cost.add(FORWARD * len(x) / risk.held)
    for own in moments.values():
        own.add_up(risk.ranks)
    return {p.layer.name: Scales.of(moments[p.layer.name], p.view) for p in plans}
