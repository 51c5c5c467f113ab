"""Relative flatness by its definition, from a layer's whole Hessian block in weight space.

For layers that samples share in ways that the cheaper forms do not hold for: a weight used twice,
batch statistics. One product with the full-batch Hessian per weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flatmeter.curvature.flatness_sums import Weighing
from flatmeter.curvature.linear_layers import LinearLayer
from flatmeter.curvature.matrix_view import MatrixView
from flatmeter.curvature.products import HessianOperator
from flatmeter.curvature.row_eigenvalues import RowMaxima, formed_maxima
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.operator import Restricted

#: Most weights of a layer whose block is formed.
WEIGHTS = 2048
_CHUNK = 64


def weight_block(risk: EmpiricalRisk, layer: LinearLayer, view: MatrixView) -> Tensor:
    """The layer's Hessian block, ``[g, d, m, d, m]`` float64, groups apart."""
    g, d, m = view.weight.shape
    index = _indices(risk, layer, view).to(risk.device)
    operator = Restricted(HessianOperator(risk), index.reshape(-1))
    unit = torch.eye(operator.dim, dtype=risk.dtype, device=risk.device)
    columns = torch.cat([operator.matmat(part) for part in unit.split(_CHUNK)]).double()
    block = ((columns + columns.T) / 2).reshape(g, d * m, g, d * m)
    own = block.diagonal(dim1=0, dim2=2).movedim(-1, 0)
    return own.reshape(g, d, m, d, m)


def _indices(risk: EmpiricalRisk, layer: LinearLayer, view: MatrixView) -> Tensor:
    """Positions of the view's entries in the flat vector: ``[g, d, m]``."""
    places = torch.arange(risk.space.dim)
    g, d = view.groups, view.rows
    assert layer.call.weight is not None
    weight = places[risk.space.slice(layer.call.weight)]
    transposed = layer.call.transposed
    weight = weight.reshape(-1, d).T.reshape(g, d, -1) if transposed else weight.reshape(g, d, -1)
    if not view.constant:
        return weight
    assert layer.call.bias is not None
    bias = places[risk.space.slice(layer.call.bias)].reshape(g, d, 1)
    return torch.cat([weight, bias], -1)


def block_sums(block: Tensor, weighing: Weighing) -> Tensor:
    """κ_Tr, κ_nw and Tr H from the block: ``[3]``."""
    traces = block.diagonal(dim1=2, dim2=4)  # [g, d, d, m]
    plain = traces.sum(-1)
    scaled = (traces * weighing.scales.inverse[:, None, None]).sum(-1)
    return torch.stack(
        [
            (plain * weighing.gram).sum(),
            (scaled * weighing.scaled_gram).sum(),
            plain.diagonal(dim1=1, dim2=2).sum(),
        ]
    )


def block_maxima(block: Tensor) -> RowMaxima:
    """λ_max of every row's block."""
    return formed_maxima(_row_blocks(block))


def block_forms(block: Tensor, vectors: Tensor) -> Tensor:
    """``v_sᵀ H_ss v_s`` for a vector of every row: ``[rows, m] -> [rows]``."""
    return torch.einsum("ri,rij,rj->r", vectors, _row_blocks(block), vectors)


def _row_blocks(block: Tensor) -> Tensor:
    g, d, m = block.shape[:3]
    rows = block.diagonal(dim1=1, dim2=3).movedim(-1, 1)
    return rows.reshape(g * d, m, m)
