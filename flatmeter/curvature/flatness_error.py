"""What groups of samples add to relative flatness, for the error from a sample of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from flatmeter.curvature.closed_form import ClosedForm
from flatmeter.curvature.data_error import DataGroups
from flatmeter.curvature.flatness_run import PROBE_BLOCK, Options, Plan, Run, Sums
from flatmeter.curvature.row_eigenvalues import RowMaxima


def flatness_shares(
    groups: DataGroups,
    options: Options,
    plans: Sequence[Plan],
    sums: Mapping[str, Sums],
    maxima: Mapping[str, RowMaxima | None],
) -> dict[str, dict[str, Tensor]]:
    """Sums over every group, whose means have the errors of the quantities to first order.

    A layer's weights are held fixed, so that the trace is a mean over samples; the largest
    eigenvalues move by ``v_sᵀ H_ss v_s``; the normalised trace also by what the group adds to the
    features' variances, which only the closed form knows.

    Args:
        groups: of the samples.
        options: how the values were computed.
        plans: the layers.
        sums: their values by layer name.
        maxima: and largest eigenvalues.

    Returns:
        By layer name and quantity, ``[G]``; quantities whose error stays unknown are left out.
    """
    few = replace(options, max_probes=PROBE_BLOCK)
    scales = {name: s.scales for name, s in sums.items() if s.scales is not None}
    rows: dict[str, dict[str, list[Tensor]]] = {p.layer.name: {} for p in plans}
    for part in groups.parts():
        run = Run(part, few, plans, scales)
        for plan in plans:
            name = plan.layer.name
            found = _of_group(plan, run.sums(plan), sums[name], maxima[name])
            for quantity, value in found.items():
                rows[name].setdefault(quantity, []).append(value)
    return {
        name: {quantity: torch.stack(values).cpu() for quantity, values in own.items()}
        for name, own in rows.items()
    }


def _of_group(plan: Plan, sums: Sums, whole: Sums, maxima: RowMaxima | None) -> dict[str, Tensor]:
    values = sums.values if sums.values.dim() == 1 else sums.values.mean(1)
    squares = plan.view.weight.square().sum(-1)
    found = {"trace": values[0], "frobenius_trace": values[2] * squares.sum()}
    # Of other layers the sum of the rows' largest eigenvalues is biased upwards on a sample, by
    # more than its first-order error.
    hidden = sums.closed is None
    forms = None if maxima is None or hidden else sums.forms(maxima.vectors)
    if forms is not None:
        found["max"] = forms @ squares.reshape(-1)
    if sums.closed is not None and whole.closed is not None:
        found["normalized"] = _normalised(sums.closed, whole.closed)
    return found


def _normalised(part: ClosedForm, whole: ClosedForm) -> Tensor:
    """``Σ_tt' P_tt' σ_t'²/σ_t²`` with a group's P, and with its share of the variances σ².

    ``P`` is a mean over weights ω, the variances are means over samples; the second are brought to
    the first's normalisation, so that one mean of sums holds both.
    """
    forward, inverse = whole.scales.forward[0].square(), whole.scales.inverse[0]
    pairs = whole.pairs / whole.risk.normalizer
    slope = (pairs.T @ inverse) - (pairs @ forward) * inverse.square()
    free = slope.masked_fill(inverse == 0, 0.0)
    if whole.view.constant:
        free[-1] = 0.0  # the bias's feature has scale 1 whatever the data are
    moments, all_moments = part.moments, whole.moments
    shift = (moments.mean - all_moments.mean)[0]
    spread = moments.spread[0] / moments.count + shift.square()
    change = (spread - forward) * moments.count / all_moments.count
    return inverse @ part.pairs @ forward + whole.risk.normalizer * (free @ change)
