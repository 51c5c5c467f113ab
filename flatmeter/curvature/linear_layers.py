"""The linear layers and convolutions of a network in execution order, and what holds for each.

A layer ``z = W φ (+ b)`` is *separable* when its weight is used once and the loss of a sample
depends on that sample's outputs of the layer alone. Then the Hessian of the loss in W is a sum over
samples of ``A_i ⊗ φ_i φ_iᵀ``, with ``A_i`` the second derivative of the sample's loss in the
layer's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flatmeter.curvature.capture import Call, Capture
from flatmeter.curvature.certificate import piecewise_linear_after
from flatmeter.curvature.sample_dimension import counts_samples, few_samples
from flatmeter.randomness import derived_generator
from flatmeter.risk.cost import FORWARD, GRADIENT
from flatmeter.risk.empirical import EmpiricalRisk

#: Operators that only rearrange a tensor, as the autograd graph names them.
_LAYOUT = {
    "AliasBackward0",
    "CloneBackward0",
    "PermuteBackward0",
    "ReshapeAliasBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "SqueezeBackward2",
    "TBackward0",
    "TransposeBackward0",
    "UnsafeViewBackward0",
    "UnsqueezeBackward0",
    "ViewBackward0",
}

_SAMPLES = 3


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer or convolution as it runs in the network.

    Args:
        name: of the weight, without its ``.weight``; of what is near where it is no parameter.
        call: its (first) call on a few samples, without a graph.
        uses: how often the network uses the weight.
        inseparable: why it is not separable, in words; ``None`` where it is.
        certified: the network's outputs are piecewise linear in the layer's.
        outermost: the network's outputs are the layer's, rearranged at most.
        in_space: its weight (and bias) belong to the parameter space; false for frozen ones.
    """

    name: str
    call: Call
    uses: int
    inseparable: str | None
    certified: bool
    outermost: bool
    in_space: bool

    @property
    def is_convolution(self) -> bool:
        """A convolution, not a linear layer."""
        return self.call.kind == "conv"


def watched(
    risk: EmpiricalRisk, x: Tensor, *, cut: Sequence[str] = (), graph: bool = False
) -> tuple[Tensor, Capture]:
    """One watched forward pass at the trained point; frozen parameters are watched too.

    Args:
        risk: the empirical risk.
        x: inputs ``[n, …]``.
        cut: weights at whose operators' outputs the graph is to start.
        graph: parameters require gradients, so that the graph reaches every layer.

    Returns:
        Outputs ``z [n, …]`` and what was captured.
    """
    tensors = {n: p.detach() for n, p in risk.module.named_parameters()}
    tensors |= risk.space.unflatten(risk.theta)
    watch = Capture({n: t.detach().requires_grad_(graph) for n, t in tensors.items()}, cut)
    with torch.set_grad_enabled(graph or bool(cut)), watch:
        z = risk.forward(dict(watch.parameters), x)
    return z, watch


def call_of(watch: Capture, layer: LinearLayer) -> Call:
    """The layer's call in another forward pass."""
    return next(c for c in watch.calls if c.weight == layer.call.weight)


def linear_layers(risk: EmpiricalRisk) -> tuple[LinearLayer, ...]:
    """Every linear layer and convolution (of one or two dimensions), each weight once, in order.

    Args:
        risk: the empirical risk.

    Returns:
        In the order of first use in a forward pass; without layers that the outputs do not depend
        on, such as auxiliary heads.
    """
    x = few_samples(risk, _SAMPLES)
    counting = counts_samples(risk)
    risk = risk.at_full_precision()
    z, watch = watched(risk, x, graph=True)
    calls, deltas = _reached(z, [c for c in watch.calls if c.kind in ("linear", "conv")])
    certified = piecewise_linear_after(z, {str(i): c.output for i, c in enumerate(calls)})
    layers: dict[str, LinearLayer] = {}
    for i, call in enumerate(calls):
        key = call.weight or f"{i}"
        if key in layers:
            continue
        name = (call.weight or call.bias or "").removesuffix(".weight").removesuffix(".bias")
        layers[key] = LinearLayer(
            name=name or (call.weight or f"operator {i}"),
            call=replace(call, output=call.output.detach()),
            uses=watch.uses[call.weight] if call.weight else 0,
            inseparable=_inseparable(risk, x, call, deltas[i], watch, counting),
            certified=certified[str(i)],
            outermost=_only_rearranged(z, call.output),
            in_space=set(call.names) <= set(risk.space.names),
        )
    risk.cost.add(_SAMPLES / risk.n * (FORWARD + 2 * GRADIENT))
    return tuple(layers.values())


def _reached(z: Tensor, calls: list[Call]) -> tuple[list[Call], list[Tensor]]:
    """The calls that the outputs depend on, with the first sample's cotangents at each."""
    if not calls or not z.requires_grad:
        return [], []
    signs = torch.randn(z.shape, generator=derived_generator(0, "linear layers")).to(z)
    signs[1:] = 0
    outputs = [c.output for c in calls]
    deltas = torch.autograd.grad(z, outputs, signs, retain_graph=True, allow_unused=True)
    pairs = [(c, d) for c, d in zip(calls, deltas, strict=True) if d is not None]
    return [c for c, _ in pairs], [d for _, d in pairs]


def _inseparable(
    risk: EmpiricalRisk,
    x: Tensor,
    call: Call,
    delta: Tensor,
    watch: Capture,
    counting: frozenset[str],
) -> str | None:
    """Why the call's layer is not separable, tested on a few samples."""
    if call.weight is None:
        return "its weight is computed from other parameters"
    if watch.uses[call.weight] > 1:
        return f"its weight is used {watch.uses[call.weight]} times"
    if call.bias is not None and watch.uses[call.bias] > 1:
        return "its bias is used elsewhere too"
    if call.weight not in counting:
        return "its first dimension does not count samples"
    if bool(delta[1:].any()):
        return "samples interact after it"
    if risk.samples_interact and _normalised_after(risk, x, call.weight):
        return "batch statistics after it make samples interact"
    return None


def _normalised_after(risk: EmpiricalRisk, x: Tensor, weight: str) -> bool:
    """Whether a batch-norm lies between the layer and the outputs."""
    z, _ = watched(risk, x, cut=(weight,))
    seen, stack = set(), [z.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if "BatchNorm" in node.name():
            return True
        seen.add(node)
        stack.extend(child for child, _ in node.next_functions)
    return False


def _only_rearranged(z: Tensor, output: Tensor) -> bool:
    """Whether ``z`` is ``output`` in another layout, by the graph between them."""
    target, node = output.grad_fn, z.grad_fn
    while node is not None and node is not target:
        if node.name().split("::")[-1] not in _LAYOUT:
            return False
        node = node.next_functions[0][0]
    return node is target
