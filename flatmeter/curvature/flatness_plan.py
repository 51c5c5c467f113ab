"""Which computation of relative flatness holds for a layer, and which of those is cheapest."""

from __future__ import annotations

from enum import Enum
from typing import Literal

import torch

from flatmeter.curvature.closed_form import has_closed_form
from flatmeter.curvature.linear_layers import LinearLayer
from flatmeter.curvature.matrix_view import MatrixView
from flatmeter.curvature.output_hessian import exact_products
from flatmeter.curvature.weight_block import WEIGHTS
from flatmeter.errors import NotApplicable
from flatmeter.risk.empirical import EmpiricalRisk

Method = Literal["auto", "closed", "exact", "ggn", "probe"]

#: Left to itself, flatmeter takes no more columns of the Gauss-Newton factor than this…
COLUMNS = 100
#: … and no more second-order products at a layer's output than this, before it takes probes.
PRODUCTS = 1024


class Computation(Enum):
    """The computations; the value says in words what was done."""

    CLOSED = "closed form"
    EXACT = "second derivatives at the layer's output"
    COLUMNS = "Gauss-Newton columns"
    COLUMN_PROBES = "random Gauss-Newton columns"
    OUTPUT_PROBES = "random directions at the layer's output"
    BLOCK = "the layer's Hessian block in weight space"


def choose(
    risk: EmpiricalRisk, layer: LinearLayer, view: MatrixView, method: Method, *, affine: bool
) -> Computation:
    """The computation for a layer.

    Args:
        risk: the empirical risk.
        layer: the layer.
        view: of it.
        method: what was asked for.
        affine: a convolution is read as its unrolled matrix.

    Raises:
        NotApplicable: none holds, or not the one that was asked for.
    """
    if layer.inseparable is not None:
        return _in_weight_space(layer, view, method, affine=affine and layer.is_convolution)
    # In the affine reading a convolution's outputs share no weights, and no closed form is known.
    closed = not (affine and layer.is_convolution) and has_closed_form(risk, layer, view)
    if method == "closed" and not closed:
        raise NotApplicable(
            f"{layer.name} has no closed form: it needs the network's last operator and the "
            "cross-entropy, mse or bce loss",
            hint="use method=auto",
        )
    if method == "closed" or (method == "auto" and closed):
        return Computation.CLOSED
    if method == "exact":
        return Computation.EXACT
    if method == "ggn":
        return _gauss_newton(layer)
    exact_columns = layer.certified and layer.in_space and risk.loss.convex
    if method == "auto":
        if exact_columns and _columns(risk) <= COLUMNS:
            return Computation.COLUMNS
        if exact_products(view) <= PRODUCTS:
            return Computation.EXACT
    return Computation.COLUMN_PROBES if exact_columns else Computation.OUTPUT_PROBES


def _in_weight_space(
    layer: LinearLayer, view: MatrixView, method: Method, *, affine: bool
) -> Computation:
    why = f"{layer.name}: {layer.inseparable}"
    if layer.call.weight is None:
        raise NotApplicable(f"{why}, so there is no Hessian in it")
    if affine or method not in ("auto", "exact"):
        asked = "convolution=affine" if affine else f"method={method}"
        raise NotApplicable(f"{why}, and {asked} does not hold there", hint="use method=auto")
    if not layer.in_space:
        raise NotApplicable(f"{why}, and it is frozen")
    if view.weight.numel() > WEIGHTS:
        raise NotApplicable(
            f"{why}, and its {view.weight.numel()} weights are too many for its whole Hessian "
            f"block (at most {WEIGHTS})",
            hint="choose another layer",
        )
    return Computation.BLOCK


def _gauss_newton(layer: LinearLayer) -> Computation:
    if not layer.in_space:
        raise NotApplicable(f"{layer.name} is frozen", hint="use method=exact")
    return Computation.COLUMNS


def _columns(risk: EmpiricalRisk) -> int:
    x = risk.example_inputs(2 if risk.samples_interact else 1)
    with torch.no_grad():
        z = risk.outputs(risk.theta, x)
    return risk.loss.columns(z[:1], risk.data.targets[:1].to(risk.device))
