"""Where the Gauss-Newton block *is* the Hessian block, read off the autograd graph.

The outputs are piecewise linear in a layer's output when every operator between them is; then the
second derivative of the loss has no term from the network. Custom functions appear in the graph
under their own names, so nothing can hide: an unknown operator only withholds a certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flatmeter.risk.cost import FORWARD, GRADIENT
from flatmeter.risk.empirical import EmpiricalRisk

#: Linear or piecewise linear in their one differentiable input.
_PIECEWISE_LINEAR = {
    "AccumulateGrad",
    "AbsBackward0",
    "AdaptiveAvgPool1DBackward0",
    "AdaptiveAvgPool2DBackward0",
    "AdaptiveAvgPool3DBackward0",
    "AdaptiveMaxPool2DBackward0",
    "AddBackward0",
    "AliasBackward0",
    "AsStridedBackward0",
    "AvgPool2DBackward0",
    "AvgPool3DBackward0",
    "CatBackward0",
    "CloneBackward0",
    "ConstantPadNdBackward0",
    "ExpandBackward0",
    "HardtanhBackward0",
    "IndexBackward0",
    "IndexSelectBackward0",
    "LeakyReluBackward0",
    "MaxPool2DWithIndicesBackward0",
    "MaxPool3DWithIndicesBackward0",
    "MaxBackward0",
    "MeanBackward0",
    "MeanBackward1",
    "NegBackward0",
    "PermuteBackward0",
    "ReflectionPad2DBackward0",
    "ReluBackward0",
    "RepeatBackward0",
    "ReplicationPad2DBackward0",
    "ReshapeAliasBackward0",
    "SelectBackward0",
    "SliceBackward0",
    "SplitBackward0",
    "SplitWithSizesBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "SqueezeBackward2",
    "StackBackward0",
    "SubBackward0",
    "SumBackward0",
    "SumBackward1",
    "TBackward0",
    "ThresholdBackward0",
    "ToCopyBackward0",
    "TransposeBackward0",
    "UnfoldBackward0",
    "UnsafeViewBackward0",
    "UnsqueezeBackward0",
    "UpsampleBilinear2DBackward0",
    "UpsampleNearest2DBackward0",
    "ViewBackward0",
}

#: Linear in each input, but not in two at once.
_MULTILINEAR = {
    "AddmmBackward0",
    "BmmBackward0",
    "ConvolutionBackward0",
    "LinearBackward0",
    "MmBackward0",
    "MulBackward0",
    "MvBackward0",
}

#: Linear in the numerator alone.
_FIRST_INPUT_LINEAR = {"DivBackward0"}


def piecewise_linear_after(z: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, bool]:
    """Whether ``z`` is piecewise linear in each of the given layer outputs.

    Args:
        z: the network's outputs, with their graph.
        outputs: layer outputs by name, tensors of that graph.

    Returns:
        ``True`` only where it is certain.
    """
    names = list(outputs)
    bit: dict[int, int] = {}
    for i, name in enumerate(names):
        key = id(outputs[name].grad_fn)
        bit[key] = bit.get(key, 0) | 1 << i
    below: dict[Any, int] = {}
    broken = 0
    for node in _children_first(z.grad_fn):
        masks = [below.get(child, 0) for child, _ in node.next_functions if child is not None]
        reached = 0
        for mask in masks:
            reached |= mask
        if reached:
            broken |= _broken(node, masks, reached)
        below[node] = reached | bit.get(id(node), 0)
    seen = below.get(z.grad_fn, 0)
    return {n: bool(seen >> i & 1) and not broken >> i & 1 for i, n in enumerate(names)}


def unused_tensors(risk: EmpiricalRisk) -> frozenset[str]:
    """Names of the tensors that the graph of no batch's outputs reaches: they have no curvature.

    A layer that is never called, one whose result is dropped, or one behind ``detach``. A tensor
    that merely has no gradient at this point may still have curvature.
    """
    unused = frozenset(risk.space.names)
    few = risk.example_inputs(1 if not risk.samples_interact else 2)
    unused -= _reached(risk, few)
    risk.cost.add(FORWARD * len(few) / risk.n)
    if not unused:
        return unused
    # What the first sample has no use for another one may need.
    reached: set[str] = set()
    for x, _ in risk.batches():
        reached |= _reached(risk, x)
    unused -= risk.ranks.union(reached, risk.space.names)
    risk.cost.add(GRADIENT)
    return unused


def _reached(risk: EmpiricalRisk, x: Tensor) -> frozenset[str]:
    views = risk.space.unflatten(risk.theta)
    tensors = {n: t.detach().requires_grad_() for n, t in views.items()}
    with torch.enable_grad():
        z = risk.forward(tensors, x)
    nodes = set(_children_first(z.grad_fn))
    leaves = {id(node.variable) for node in nodes if node.name().endswith("AccumulateGrad")}
    return frozenset(n for n, t in tensors.items() if id(t) in leaves)


def _broken(node: Any, masks: list[int], reached: int) -> int:
    """The layers in which this operator is not piecewise linear, as a bit mask."""
    name = node.name().split("::")[-1]
    if name in _PIECEWISE_LINEAR:
        return 0
    if name in _MULTILINEAR:
        seen = twice = 0
        for mask in masks:
            twice |= seen & mask
            seen |= mask
        return twice
    if name in _FIRST_INPUT_LINEAR and len(masks) and node.next_functions[0][0] is not None:
        rest = 0
        for mask in masks[1:]:
            rest |= mask
        return rest
    if name == "NativeBatchNormBackward0" and not node._saved_training:
        return 0
    return reached


def _children_first(root: Any) -> list[Any]:
    """Every node of the graph below ``root``, inputs before what is computed from them."""
    order: list[Any] = []
    seen = set()
    stack = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((child, False) for child, _ in node.next_functions)
    return order
