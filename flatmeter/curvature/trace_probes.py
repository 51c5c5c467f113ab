"""Random probes of layer traces: rows of unbiased values, one for every tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from flatmeter.curvature.column_passes import output_signs
from flatmeter.curvature.ghost import probed_traces
from flatmeter.curvature.products import GaussNewtonOperator, HessianOperator
from flatmeter.randomness import derived_generator
from flatmeter.risk.cost import GRADIENT
from flatmeter.risk.empirical import EmpiricalRisk

Draw = Callable[[int, int], np.ndarray]
"""Rows of the probes ``first … stop − 1``: ``[stop − first, n]``."""

PROBE_GROUP = 128
"""Samples whose gradients are summed before they are squared: fewer vary less, at more calls."""

TOGETHER = 2**27
"""Numbers of the vectors that are multiplied at once; there are copies of them in float64."""


def column_probes(risk: EmpiricalRisk, seed: int, admitted: frozenset[str]) -> Draw:
    """Rows of ghost traces, each from one random column per sample that all tensors share."""

    def draw(first: int, stop: int) -> np.ndarray:
        traces = probed_traces(risk, admitted, range(first, stop), seed)
        nothing = np.zeros(stop - first)
        return np.stack([traces.get(n, nothing) for n in risk.space.names], axis=1)

    return draw


def gauss_newton_probes(risk: EmpiricalRisk, seed: int, wanted: list[str]) -> Draw:
    """Rows of ``‖(Jᵀ S ε)_l‖² / N``; signs are independent, so groups add without cross terms.

    The groups are the same whatever the batch size, or the value would follow it.
    """
    columns = [risk.space.names.index(n) for n in wanted]

    def draw(first: int, stop: int) -> np.ndarray:
        rows = np.zeros((stop - first, len(risk.space.names)))
        for row, probe in enumerate(range(first, stop)):
            for group in risk.groups(PROBE_GROUP):
                total = torch.zeros(risk.space.dim, dtype=torch.float64, device=risk.device)
                for start, x, y in group:
                    point = risk.theta.detach().requires_grad_()
                    z = risk.outputs(point, x)
                    signs = output_signs(risk, z, seed, probe, start)
                    cotangent = risk.loss.probe(z.detach(), y, signs)
                    (g,) = torch.autograd.grad(z, point, cotangent, materialize_grads=True)
                    total += g
                rows[row] += _block_sums(risk, total.square())
            risk.cost.add(GRADIENT)
        risk.ranks.sum(torch.from_numpy(rows))
        masked = np.zeros_like(rows)
        masked[:, columns] = rows[:, columns] / risk.normalizer
        return masked

    return draw


def hessian_probes(
    risk: EmpiricalRisk, seed: int, wanted: list[str], admitted: frozenset[str]
) -> Draw:
    """Rows of ``v_lᵀ(Hv)_l``, less ``v_lᵀ(Gv)_l`` where the exact Gauss-Newton trace is known."""
    names = risk.space.names
    hessian, gauss_newton = HessianOperator(risk), GaussNewtonOperator(risk)
    varied = np.array([n in admitted and n in wanted for n in names])
    mask = np.array([n in wanted for n in names])

    def draw(first: int, stop: int) -> np.ndarray:
        width = max(1, TOGETHER // risk.space.dim)
        starts = range(first, stop, width)
        return np.concatenate([some(start, min(start + width, stop)) for start in starts])

    def some(first: int, stop: int) -> np.ndarray:
        V = torch.stack([_rademacher(risk, seed, i) for i in range(first, stop)])
        rows = np.stack([_block_sums(risk, r) for r in V.double() * hessian.matmat(V).double()])
        if varied.any():
            G = V.double() * gauss_newton.matmat(V).double()
            rows -= np.stack([_block_sums(risk, r) for r in G]) * varied
        masked: np.ndarray = rows * mask
        return masked

    return draw


def _rademacher(risk: EmpiricalRisk, seed: int, index: int) -> Tensor:
    generator = derived_generator(seed, "parameter probe", index)
    signs = torch.randint(0, 2, (risk.space.dim,), generator=generator, dtype=torch.int8)
    return (2 * signs - 1).to(risk.device, risk.dtype)


def _block_sums(risk: EmpiricalRisk, flat: Tensor) -> np.ndarray:
    parts = flat.split(risk.space.sizes)
    sums: np.ndarray = torch.stack([p.sum() for p in parts]).cpu().numpy()
    return sums
