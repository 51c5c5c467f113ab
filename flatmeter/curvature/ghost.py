"""Exact block traces of the Gauss-Newton matrix from activation-only backward passes.

For a parameter used once, ``T = (1/N) Σ_i Σ_k ‖J_iᵀ s_i^k‖²`` with S Sᵀ the curvature of the loss
in the outputs: one forward pass, one backward pass to the layers' *outputs* per column of S, and a
norm computed from activations and cotangents (arXiv 2106.12612, section on the Hessian's trace).
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from flatmeter.curvature.capture import Call
from flatmeter.curvature.certificate import piecewise_linear_after
from flatmeter.curvature.column_passes import (
    all_columns,
    capture,
    distinct,
    layout_of,
    probe_columns,
)
from flatmeter.curvature.ghost_rules import gradients, squared_gradients, squared_norms
from flatmeter.curvature.sample_dimension import few_samples, sample_layouts
from flatmeter.randomness import derived_generator
from flatmeter.risk.empirical import EmpiricalRisk


@dataclass(frozen=True)
class Eligible:
    """What the ghost method may be used for.

    Args:
        names: parameters with one known use whose cotangents belong to one sample each.
        certified: those among them whose Gauss-Newton block is the Hessian's.
    """

    names: frozenset[str]
    certified: frozenset[str]


_FOUND: WeakKeyDictionary[nn.Module, Eligible] = WeakKeyDictionary()


def eligible(risk: EmpiricalRisk) -> Eligible:
    """Which parameters the ghost method holds for, tested on a few samples once for a network.

    A parameter is admitted when it has one known use, the cotangents of a sample are zero in all
    other samples (so the first dimension counts samples and they do not interact), and the
    gradient put together from activations and cotangents is the one of automatic differentiation.
    """
    if risk.samples_interact:
        return Eligible(frozenset(), frozenset())
    if risk.module not in _FOUND:
        _FOUND[risk.module] = _eligible(risk.at_full_precision())
    return _FOUND[risk.module]


def _eligible(risk: EmpiricalRisk) -> Eligible:
    x = few_samples(risk, 3)
    z, watch, parameters = capture(risk, x)
    layouts = sample_layouts(risk)
    known = {n: call for n, call in watch.known().items() if n in layouts}
    if not known or not z.requires_grad:
        return Eligible(frozenset(), frozenset())
    outputs = {n: call.output for n, call in known.items()}
    certified = piecewise_linear_after(z, outputs)
    signs = torch.randn(z.shape, generator=derived_generator(0, "ghost check")).to(z)
    signs[1:] = 0
    calls = distinct(known)
    deltas = torch.autograd.grad(
        z, [c.output for c in calls], signs, retain_graph=True, materialize_grads=True
    )
    names = set()
    for call, raw in zip(calls, deltas, strict=True):
        form = layout_of(call, layouts)
        delta, placed = form.moved(raw, len(x)), form.placed(call, len(x))
        if delta.shape[0] != len(x) or bool(delta[1:].any()) or placed.input.shape[0] != len(x):
            continue
        own = {n: g[0, 0] for n, g in gradients(placed, delta.unsqueeze(0)).items()}
        true = torch.autograd.grad(
            z, [parameters[n] for n in own], signs, retain_graph=True, materialize_grads=True
        )
        for (name, g), reference in zip(own.items(), true, strict=True):
            if known.get(name) is call and torch.allclose(
                g, reference, rtol=1e-3, atol=1e-5 * float(reference.abs().max())
            ):
                names.add(name)
    return Eligible(frozenset(names), frozenset(n for n in names if certified[n]))


def exact_traces(risk: EmpiricalRisk, names: frozenset[str]) -> dict[str, float]:
    """Block traces of the Gauss-Newton matrix, exact: every column of S for every sample.

    Args:
        risk: the empirical risk.
        names: admitted parameters (see :func:`eligible`).

    Returns:
        ``T`` by name.
    """
    rows = {name: row for row, name in enumerate(sorted(names))}
    sums = torch.zeros(len(rows), dtype=torch.float64)

    def take(call: Call, deltas: Tensor, columns: range) -> None:
        for name, norms in squared_norms(call, deltas).items():
            if name in rows:
                sums[rows[name]] += float(norms.sum())

    all_columns(risk, names, take)
    risk.ranks.sum(sums)
    return {n: float(sums[row]) / risk.normalizer for n, row in rows.items()}


def exact_diagonal(risk: EmpiricalRisk, names: frozenset[str]) -> dict[str, Tensor]:
    """The diagonal of the Gauss-Newton matrix, exact, for the admitted parameters.

    Args:
        risk: the empirical risk.
        names: admitted parameters (see :func:`eligible`).

    Returns:
        Tensors in float64 shaped as the parameters, by name.
    """
    shapes = dict(zip(risk.space.names, risk.space.shapes, strict=True))
    sums = {
        n: torch.zeros(shapes[n], dtype=torch.float64, device=risk.device) for n in sorted(names)
    }

    def take(call: Call, deltas: Tensor, columns: range) -> None:
        for name, total in squared_gradients(call, deltas).items():
            if name in sums:
                sums[name] += total

    all_columns(risk, names, take)
    risk.ranks.sum(*sums.values())
    return {n: s / risk.normalizer for n, s in sums.items()}


def probed_traces(
    risk: EmpiricalRisk, names: frozenset[str], probes: range, seed: int
) -> dict[str, np.ndarray]:
    """Block traces from random columns, for losses with many classes.

    Args:
        risk: the empirical risk.
        names: admitted parameters.
        probes: numbers of the probes, each one Rademacher column per sample.
        seed: of the run.

    Returns:
        One unbiased value per probe by name, ``[len(probes)]``; all names share the columns.
    """
    rows = {name: row for row, name in enumerate(sorted(names))}
    sums = torch.zeros(len(rows), len(probes), dtype=torch.float64)

    def take(call: Call, deltas: Tensor, columns: range) -> None:
        first = columns.start - probes.start
        for name, norms in squared_norms(call, deltas).items():
            if name in rows:
                sums[rows[name], first : first + len(columns)] += norms.sum(1).cpu()

    probe_columns(risk, names, probes, seed, take)
    risk.ranks.sum(sums)
    return {n: sums[row].numpy() / risk.normalizer for n, row in rows.items()}
