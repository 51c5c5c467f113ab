"""Relative flatness of linear layers and convolutions.

Petzka et al. (2021, arXiv 2001.00939), Definition 3: with ``H_ss'`` the block of the loss's Hessian
between rows s and s' of the layer's matrix W, ``κ_Tr = Σ_ss' ⟨w_s, w_s'⟩ Tr H_ss'``. Groups of
channels are layers of their own, whose values add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from flatmeter.curvature.data_error import DataGroups
from flatmeter.curvature.flatness_error import flatness_shares
from flatmeter.curvature.flatness_plan import Computation, choose
from flatmeter.curvature.flatness_run import Options, Plan, Run, Sums
from flatmeter.curvature.linear_layers import LinearLayer
from flatmeter.curvature.matrix_view import matrix_view
from flatmeter.curvature.row_eigenvalues import RowMaxima
from flatmeter.errors import NotApplicable
from flatmeter.estimate import Estimate
from flatmeter.risk.empirical import EmpiricalRisk


@dataclass(frozen=True)
class Flatness:
    """One layer's relative flatness.

    Args:
        trace: κ_Tr.
        maximum: ``Σ_s ‖w_s‖² λ_max(H_ss)``; ``None`` where it is too costly.
        normalized: κ_Tr with every feature divided by its standard deviation; ``None`` where one
            call does not see every feature that the weight is applied to.
        frobenius_trace: ``‖W‖² Tr H``.
        computation: how it was computed.
        hessian: it is of the Hessian; false where the Gauss-Newton matrix stands for it.
        left_out: features of standard deviation zero, left out of ``normalized``.
        shares: what every group of samples adds to a quantity, ``[G]`` by its name: sums whose mean
            has the error from measuring on a sample of the data.
    """

    trace: Estimate
    maximum: Estimate | None
    normalized: Estimate | None
    frobenius_trace: Estimate
    computation: Computation
    hessian: bool
    left_out: int
    shares: Mapping[str, Tensor]


def relative_flatness(
    risk: EmpiricalRisk, layers: Sequence[LinearLayer], options: Options
) -> tuple[dict[str, Flatness], dict[str, str]]:
    """Relative flatness of some layers, and why others have none.

    Args:
        risk: the empirical risk; its weight decay is left out.
        layers: see :func:`flatmeter.curvature.linear_layers.linear_layers`.
        options: how.

    Returns:
        By layer name, in order: the values, and the reasons of layers that have none.
    """
    risk = risk.without_weight_decay()
    plans: list[Plan] = []
    refused: dict[str, str] = {}
    for layer in layers:
        try:
            view = matrix_view(layer.call, bias=options.bias, affine=options.affine)
            kind = choose(risk, layer, view, options.method, affine=options.affine)
        except NotApplicable as error:
            refused[layer.name] = str(error)
        else:
            plans.append(Plan(layer, view, kind))
    run = Run(risk, options, plans)
    sums = {p.layer.name: run.sums(p) for p in plans}
    maxima = {name: s.maxima() for name, s in sums.items()}
    groups = DataGroups.of(risk)
    shares = {} if groups is None else flatness_shares(groups, options, plans, sums, maxima)
    return {
        p.layer.name: _flatness(
            p, sums[p.layer.name], maxima[p.layer.name], shares.get(p.layer.name, {})
        )
        for p in plans
    }, refused


def _flatness(
    plan: Plan, sums: Sums, maxima: RowMaxima | None, shares: Mapping[str, Tensor]
) -> Flatness:
    squares = plan.view.weight.square().sum(-1)
    return Flatness(
        trace=sums.estimate(0),
        maximum=None if maxima is None else maxima.weighted(squares.reshape(-1)),
        normalized=None if sums.scales is None else sums.estimate(1),
        frobenius_trace=sums.estimate(2).scaled(float(squares.sum())),
        computation=plan.kind,
        hessian=plan.kind is not Computation.COLUMNS or plan.layer.certified,
        left_out=0 if sums.scales is None else sums.scales.left_out,
        shares=shares,
    )
