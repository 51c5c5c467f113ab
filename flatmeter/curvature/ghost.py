"""Exact block traces of the Gauss-Newton matrix from activation-only backward passes.

For a parameter used once, ``T = (1/N) Σ_i Σ_k ‖J_iᵀ s_i^k‖²`` with S Sᵀ the curvature of the loss
in the outputs: one forward pass, one backward pass to the layers' *outputs* per column of S, and a
norm computed from activations and cotangents (arXiv 2106.12612, section on the Hessian's trace).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from flatmeter.curvature.capture import Call, Capture, at_least_float32
from flatmeter.curvature.certificate import piecewise_linear_after
from flatmeter.curvature.ghost_rules import gradients, squared_gradients, squared_norms
from flatmeter.curvature.sample_dimension import Layout, few_samples, sample_layouts
from flatmeter.out_of_memory import ran_out
from flatmeter.randomness import derived_generator
from flatmeter.risk.cost import ACTIVATION_BACKWARD, FORWARD
from flatmeter.risk.empirical import EmpiricalRisk

#: Bytes of one output's cotangents in a backward pass on a CPU: those of more columns leave its
#: caches.
CACHED = 2**22


@dataclass(frozen=True)
class Eligible:
    """What the ghost method may be used for.

    Args:
        names: parameters with one known use whose cotangents belong to one sample each.
        certified: those among them whose Gauss-Newton block is the Hessian's.
    """

    names: frozenset[str]
    certified: frozenset[str]


def capture(
    risk: EmpiricalRisk, x: Tensor, cut: tuple[str, ...] = ()
) -> tuple[Tensor, Capture, dict[str, Tensor]]:
    """One watched forward pass at the trained point.

    Args:
        risk: the empirical risk.
        x: inputs ``[n, …]``.
        cut: weights at whose operators' outputs the graph is to start.

    Returns:
        Outputs ``z [n, …]``, what was captured, and the parameter tensors by name.
    """
    views = risk.space.unflatten(risk.theta)
    parameters = {n: t.detach().requires_grad_() for n, t in views.items()}
    watch = Capture(parameters, cut)
    with torch.enable_grad(), watch:
        z = risk.forward(parameters, x)
    return z, watch, parameters


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
    calls = _calls(known)
    deltas = torch.autograd.grad(
        z, [c.output for c in calls], signs, retain_graph=True, materialize_grads=True
    )
    names = set()
    for call, raw in zip(calls, deltas, strict=True):
        form = _layout(call, layouts)
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


def _layout(call: Call, layouts: Mapping[str, Layout]) -> Layout:
    """Where the samples are at a call, by one of its parameters that is known."""
    return next((layouts[n] for n in call.names if n in layouts), Layout.FIRST)


def _calls(known: dict[str, Call]) -> list[Call]:
    """The calls behind some parameters, each once."""
    return list({id(call): call for call in known.values()}.values())


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
    for call, deltas in all_columns(risk, names):
        for name, norms in squared_norms(call, deltas).items():
            if name in rows:
                sums[rows[name]] += float(norms.sum())
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
    for call, deltas in all_columns(risk, names):
        for name, total in squared_gradients(call, deltas).items():
            if name in sums:
                sums[name] += total
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
    for call, deltas in probe_columns(risk, names, probes, seed):
        for name, norms in squared_norms(call, deltas).items():
            if name in rows:
                sums[rows[name]] += norms.sum(1).cpu()
    risk.ranks.sum(sums)
    return {n: sums[row].numpy() / risk.normalizer for n, row in rows.items()}


def all_columns(risk: EmpiricalRisk, names: frozenset[str]) -> Iterator[tuple[Call, Tensor]]:
    """Cotangents ``[c, n, …]`` of every column, in chunks, at every call, batch by batch.

    Of this process's batches, as in :func:`probe_columns`.
    """
    for x, y in risk.batches():
        z, calls = _watched(risk, x, names)
        total = risk.loss.columns(z, y)
        start = 0
        while start < total:
            chunk, pulled = _chunk(risk, z, calls, y, range(start, total))
            yield from _placed(risk, pulled, len(x))
            start += chunk
        risk.cost.add(len(x) / risk.held * (FORWARD + ACTIVATION_BACKWARD * total))


def _chunk(
    risk: EmpiricalRisk, z: Tensor, calls: list[Call], y: Tensor, left: range
) -> tuple[int, list[tuple[Call, Tensor]]]:
    """As many of the columns that are left as memory has room for; fewer after it ran out."""
    # The cotangents of the passes, and the same put together.
    bytes_each = 2 * sum(call.output.nbytes for call in calls)
    while True:
        chunk = risk.memory.columns_at_once(bytes_each, len(left))
        try:
            return chunk, _pull(z, calls, risk.loss.factor(z.detach(), y, left[:chunk]))
        except (RuntimeError, MemoryError) as error:
            if not (ran_out(error) and risk.memory.retreat_to(chunk // 2)):
                raise


def probe_columns(
    risk: EmpiricalRisk, names: frozenset[str], probes: range, seed: int
) -> Iterator[tuple[Call, Tensor]]:
    """Cotangents ``[len(probes), n, …]`` of random columns at every call, batch by batch."""
    for start, x, y in risk.numbered_batches():
        z, calls = _watched(risk, x, names)
        columns = [
            risk.loss.probe(z.detach(), y, output_signs(risk, z, seed, probe, start))
            for probe in probes
        ]
        yield from _placed(risk, _pull(z, calls, torch.stack(columns)), len(x))
        risk.cost.add(len(x) / risk.held * (FORWARD + ACTIVATION_BACKWARD * len(probes)))


def output_signs(risk: EmpiricalRisk, z: Tensor, seed: int, probe: int, start: int) -> Tensor:
    """Rademacher signs shaped as ``z`` for the samples ``start …``; no batch size changes them."""
    shape = (risk.n, *z.shape[1:])
    generator = derived_generator(seed, "output probe", probe)
    signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8)
    return (2 * signs[start : start + len(z)] - 1).to(z)


def _watched(risk: EmpiricalRisk, x: Tensor, names: frozenset[str]) -> tuple[Tensor, list[Call]]:
    z, watch, _ = capture(risk, x)
    return z, _calls({n: c for n, c in watch.known().items() if n in names})


def _placed(
    risk: EmpiricalRisk, pulled: list[tuple[Call, Tensor]], n: int
) -> Iterator[tuple[Call, Tensor]]:
    """The same with the samples in the first dimension of inputs, the second of cotangents."""
    layouts = sample_layouts(risk)
    for call, deltas in pulled:
        form = _layout(call, layouts)
        if form is Layout.FIRST:
            yield call, deltas
        else:
            yield form.placed(call, n), form.moved(deltas, n, 1)


def _pull(z: Tensor, calls: list[Call], columns: Tensor) -> list[tuple[Call, Tensor]]:
    """Cotangents at the calls' outputs for a stack of cotangents at the network's."""
    outputs = [call.output for call in calls]
    width = len(columns)
    if z.device.type == "cpu":
        width = max(1, CACHED // max(output.nbytes for output in outputs))
    passes = [_backward(z, outputs, part) for part in columns.split(width)]
    return [
        (call, at_least_float32(_joined(parts)))
        for call, *parts in zip(calls, *passes, strict=True)
    ]


def _backward(z: Tensor, outputs: list[Tensor], columns: Tensor) -> list[Tensor]:
    """``[w, n, …]`` for each of the outputs."""
    batched = len(columns) > 1
    deltas = torch.autograd.grad(
        z,
        outputs,
        columns if batched else columns[0],
        retain_graph=True,
        is_grads_batched=batched,
        allow_unused=True,
    )
    # What the loss does not see has no curvature.
    return [
        output.new_zeros(len(columns), *output.shape)
        if delta is None
        else (delta if batched else delta.unsqueeze(0))
        for output, delta in zip(outputs, deltas, strict=True)
    ]


def _joined(parts: list[Tensor]) -> Tensor:
    """``[c, n, …]`` from some columns each; a sample's columns lie together."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.transpose(0, 1) for part in parts], 1).transpose(0, 1)
