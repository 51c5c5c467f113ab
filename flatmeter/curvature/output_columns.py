"""Relative flatness from columns ``δ = Jᵀ s`` of the Gauss-Newton matrix at a layer's output.

``Σ_c δ_c δ_cᵀ`` over the columns of a factor of the loss's curvature is the Hessian in the layer's
output wherever everything after it is piecewise linear. One backward pass per column serves all
layers; with many classes random columns stand in for them, one backward pass per probe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmeter.curvature.capture import Call
from flatmeter.curvature.column_passes import Take, all_columns, probe_columns
from flatmeter.curvature.flatness_sums import RowBlocks, Weighing
from flatmeter.curvature.linear_layers import LinearLayer
from flatmeter.curvature.row_eigenvalues import RowMaxima, lanczos_maxima
from flatmeter.risk.empirical import EmpiricalRisk


@dataclass(frozen=True)
class Job:
    """A layer and what its sums go to."""

    layer: LinearLayer
    weighing: Weighing
    rows: RowBlocks


def column_sums(risk: EmpiricalRisk, jobs: Sequence[Job]) -> dict[str, Tensor]:
    """κ_Tr, κ_nw and Tr H, ``[3]`` by layer name; row blocks are added to each job's."""
    totals = {job.layer.name: job.weighing.view.weight.new_zeros(3) for job in jobs}

    def take(job: Job, a: Tensor, deltas: Tensor, columns: range) -> None:
        sums = job.weighing.of_columns(a, deltas).sum(1)
        job.rows.add_columns(a, deltas)
        totals[job.layer.name] += sums

    all_columns(risk, _weights(jobs), _unfolded(jobs, take))
    risk.ranks.sum(*totals.values())
    return {name: total / risk.normalizer for name, total in totals.items()}


def probed_column_sums(
    risk: EmpiricalRisk, jobs: Sequence[Job], probes: range, seed: int
) -> dict[str, Tensor]:
    """Unbiased values of the same from random columns: ``[3, len(probes)]`` by layer name."""
    totals = {job.layer.name: job.weighing.view.weight.new_zeros(3, len(probes)) for job in jobs}

    def take(job: Job, a: Tensor, deltas: Tensor, columns: range) -> None:
        first = columns.start - probes.start
        sums = job.weighing.of_columns(a, deltas)
        totals[job.layer.name][:, first : first + len(columns)] += sums

    probe_columns(risk, _weights(jobs), probes, seed, _unfolded(jobs, take))
    risk.ranks.sum(*totals.values())
    return {name: total / risk.normalizer for name, total in totals.items()}


def passed_maxima(
    risk: EmpiricalRisk,
    job: Job,
    *,
    seed: int,
    rtol: float,
    progress: Callable[[str], None],
) -> RowMaxima:
    """λ_max of every row's block without keeping blocks: every product is a pass over the data."""
    g, d, m = job.weighing.view.weight.shape
    passes = 0

    def apply(V: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        progress(f"relative flatness: {job.layer.name}, eigenvalues, pass {passes}")
        v = V.reshape(g, d, m)
        out = torch.zeros_like(v)

        def take(job: Job, a: Tensor, deltas: Tensor, columns: range) -> None:
            along = deltas * torch.einsum("ngtm,gdm->ngtd", a, v)
            mixed = (along.sum(-2, keepdim=True) * deltas).sum(0)
            out.add_(torch.einsum("ngtd,ngtm->gdm", mixed, a))

        all_columns(risk, _weights([job]), _unfolded([job], take))
        risk.ranks.sum(out)
        return out.reshape(g * d, m) / risk.normalizer

    return lanczos_maxima(apply, g * d, m, risk.device, seed, rtol)


def _weights(jobs: Sequence[Job]) -> frozenset[str]:
    return frozenset(job.layer.call.weight for job in jobs if job.layer.call.weight)


def _unfolded(jobs: Sequence[Job], take: Callable[[Job, Tensor, Tensor, range], None]) -> Take:
    """Told of a call, give on its job with inputs ``[n, g, T, m]``, cotangents ``[c, n, g, T, d]``.

    The inputs are the same tensor for all chunks of a batch's columns.
    """
    by_weight = {job.layer.call.weight: job for job in jobs}
    inputs: dict[str | None, tuple[Call, Tensor]] = {}

    def unfolded(call: Call, deltas: Tensor, columns: range) -> None:
        job = by_weight[call.weight]
        view = job.weighing.view
        if call.weight not in inputs or inputs[call.weight][0] is not call:
            inputs[call.weight] = (call, view.inputs(call))
        take(job, inputs[call.weight][1], view.outputs(call, deltas), columns)

    return unfolded
