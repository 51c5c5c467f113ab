"""Backward passes from columns of the loss's curvature to the outputs of layers.

As many columns run together as memory has room for; where it runs out all the same, in the passes
or in what is made of them, fewer run together from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from flatmeter.curvature.capture import Call, Capture, at_least_float32
from flatmeter.curvature.sample_dimension import Layout, sample_layouts
from flatmeter.out_of_memory import ran_out
from flatmeter.randomness import derived_generator
from flatmeter.risk.cost import ACTIVATION_BACKWARD, FORWARD
from flatmeter.risk.empirical import EmpiricalRisk

#: Bytes of one output's cotangents in a backward pass on a CPU: those of more columns leave its
#: caches.
CACHED = 2**22

Take = Callable[[Call, Tensor, range], None]
"""Given a call, cotangents ``[c, n, …]`` at its output, and which columns these are.

It adds up what it makes of them in one last step: where memory runs out before, it is given fewer
of the same columns anew.
"""


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


def layout_of(call: Call, layouts: Mapping[str, Layout]) -> Layout:
    """Where the samples are at a call, by one of its parameters that is known."""
    return next((layouts[n] for n in call.names if n in layouts), Layout.FIRST)


def distinct(known: Mapping[str, Call]) -> list[Call]:
    """The calls behind some parameters, each once."""
    return list({id(call): call for call in known.values()}.values())


def all_columns(risk: EmpiricalRisk, names: frozenset[str], take: Take) -> None:
    """Every column for every sample of this process, batch by batch.

    Args:
        risk: the empirical risk.
        names: parameters at whose operators cotangents are wanted.
        take: given them, the samples in the first dimension of the call's input.
    """
    for x, y in risk.batches():
        z, calls = _watched(risk, x, names)
        total = risk.loss.columns(z, y)
        columns = partial(risk.loss.factor, z.detach(), y)
        _Passes(risk, z, columns, take).deal(calls, range(total))
        risk.cost.add(len(x) / risk.held * (FORWARD + ACTIVATION_BACKWARD * total))


def probe_columns(
    risk: EmpiricalRisk, names: frozenset[str], probes: range, seed: int, take: Take
) -> None:
    """Random columns in place of all: one for each probe and sample, see :func:`all_columns`.

    Args:
        risk: the empirical risk.
        names: parameters at whose operators cotangents are wanted.
        probes: their numbers.
        seed: of the run.
        take: given the cotangents and the numbers of their probes.
    """
    for start, x, y in risk.numbered_batches():
        z, calls = _watched(risk, x, names)
        columns = partial(_random_columns, risk, z.detach(), y, seed, start)
        _Passes(risk, z, columns, take).deal(calls, probes)
        risk.cost.add(len(x) / risk.held * (FORWARD + ACTIVATION_BACKWARD * len(probes)))


def _watched(risk: EmpiricalRisk, x: Tensor, names: frozenset[str]) -> tuple[Tensor, list[Call]]:
    z, watch, _ = capture(risk, x)
    return z, distinct({n: c for n, c in watch.known().items() if n in names})


def _random_columns(
    risk: EmpiricalRisk, z: Tensor, y: Tensor, seed: int, start: int, probes: range
) -> Tensor:
    signs = (output_signs(risk, z, seed, probe, start) for probe in probes)
    return torch.stack([risk.loss.probe(z, y, s) for s in signs])


def output_signs(risk: EmpiricalRisk, z: Tensor, seed: int, probe: int, start: int) -> Tensor:
    """Rademacher signs shaped as ``z`` for the samples ``start …``; no batch size changes them."""
    shape = (risk.n, *z.shape[1:])
    generator = derived_generator(seed, "output probe", probe)
    signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8)
    return (2 * signs[start : start + len(z)] - 1).to(z)


@dataclass(frozen=True)
class _Passes:
    """The backward passes of one batch.

    Args:
        risk: the empirical risk.
        z: outputs ``[n, …]``, with their graph.
        columns: makes some of the columns, ``[c, n, …]``.
        take: given the cotangents.
    """

    risk: EmpiricalRisk
    z: Tensor
    columns: Callable[[range], Tensor]
    take: Take

    def deal(self, calls: list[Call], wanted: range) -> None:
        """Give every call every column, as many at once as memory has room for."""
        # The cotangents of the passes, and the same put together.
        bytes_each = 2 * sum(call.output.nbytes for call in calls)
        while wanted:
            chunk = wanted[: self.risk.memory.columns_at_once(bytes_each, len(wanted))]
            if left := self._run(calls, chunk):
                # The calls before these had theirs.
                self.deal(left, chunk)
            wanted = wanted[len(chunk) :]

    def _run(self, calls: list[Call], chunk: range) -> list[Call]:
        """Give calls some columns; those for which memory ran out before they were taken."""
        given = 0
        try:
            for call, deltas in self._placed(_pull(self.z, calls, self.columns(chunk))):
                self.take(call, deltas, chunk)
                given += 1
        except (RuntimeError, MemoryError) as error:
            if not (ran_out(error) and self.risk.memory.halve("columns", len(chunk))):
                raise
        return calls[given:]

    def _placed(self, pulled: list[tuple[Call, Tensor]]) -> Iterator[tuple[Call, Tensor]]:
        """The same with the samples in the first dimension of inputs, the second of cotangents."""
        layouts, n = sample_layouts(self.risk), len(self.z)
        for call, deltas in pulled:
            form = layout_of(call, layouts)
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
