"""Biases that change nothing: what they add is taken away again by the operator that follows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from flatmeter.symmetry import operators as known
from flatmeter.symmetry.export import Call, Graph, nodes_of


def null_biases(graph: Graph) -> frozenset[Node]:
    """Parameters that are only ever added, per channel, where a constant has no effect.

    Such is the bias of a convolution in front of a batch-norm that uses the batch's own mean, and
    that of the keys in attention, also where it is written out: it shifts all the scores of a query
    alike, and softmax does not see it. Linear layers and additions in between hand constants on.
    """
    if not graph.is_static:
        return frozenset()
    users: dict[Node, list[int]] = defaultdict(list)
    for position, call in enumerate(graph.calls):
        for node in call.node.all_input_nodes:
            users[node].append(position)
    return frozenset(node for node in graph.parameters if _is_null(node, users, graph))


def _is_null(bias: Node, users: Mapping[Node, Sequence[int]], graph: Graph) -> bool:
    """Nothing that comes of ``bias`` can tell its value.

    Every node that it reaches is given the pattern of what is added to it: numbers with the same
    label have the same constant added.
    """
    patterns: dict[Node, Tensor] = {}
    queue = list(users[bias])
    while queue:
        position = heappop(queue)
        call = graph.calls[position]
        if call.node in patterns:
            continue  # it was queued for several of its inputs
        absorbed = _absorbs(call, patterns)
        parts = []
        if bias in call.node.all_input_nodes:
            parts.append(_added(call, bias))
        if not absorbed and any(n in patterns for n in call.node.all_input_nodes):
            parts.append(_handed_on(call, patterns))
        if not parts:
            continue
        pattern = parts[0]
        if pattern is None or any(part is None for part in parts):
            return False
        if call.node in graph.outputs or not users[call.node]:
            return False
        if any(_has_views(n, users, graph) for n in call.mutated):
            return False
        for node in (call.node, *call.mutated):
            patterns[node] = pattern
            for later in users[node]:
                if later > position:
                    heappush(queue, later)
    return bool(users[bias])


def _has_views(node: Node, users: Mapping[Node, Sequence[int]], graph: Graph) -> bool:
    """Something else may hold the same numbers, so that writing to them is seen elsewhere."""
    around = [graph.calls[i] for i in users[node]]
    around += [call for call in graph.calls if call.node is node]
    return any(call.name in known.SHAPE for call in around)


def _added(call: Call, bias: Node) -> Tensor | None:
    """The pattern of a bias where it is added, one label for each channel."""
    used = list(nodes_of((call.node.args, *call.node.kwargs.values()))).count(bias)
    if call["bias"] is not bias or used != 1:
        return None
    shape = call.node.meta["val"].shape
    size = bias.meta["val"].shape
    labels = torch.arange(size.numel(), dtype=torch.int32)
    if call.name in ("linear", "layer_norm"):
        return labels.reshape(size).expand(shape)
    if call.name in known.AFFINE:
        return labels.reshape(-1, *[1] * _spatial(call)).expand(shape)
    if call.name in known.NORMS:
        return labels.reshape(-1, *[1] * (len(shape) - 2)).expand(shape)
    return None


def _handed_on(call: Call, patterns: Mapping[Node, Tensor]) -> Tensor | None:
    """The pattern of the output, ``None`` where the operator can tell what was added."""
    shape = getattr(call.node.meta["val"], "shape", None)
    reached = [n for n in call.node.all_input_nodes if n in patterns]
    if shape is None:
        return None
    if (
        call.name in known.SHAPE
        and reached == list(call.node.all_input_nodes)
        and len(reached) == 1
    ):
        return moved(call, patterns[reached[0]])
    if call.name in known.DROPOUTS and known.is_pointwise(call):
        return patterns[reached[0]]
    if call.name == "masked_fill" and reached == [call["self"]]:
        return patterns[reached[0]] if call["value"] in (math.inf, -math.inf) else None
    if call.name in ("mul", "div"):
        return patterns[reached[0]].expand(shape) if _multiplies(call, reached) else None
    if call.name in ("matmul", "bmm"):
        return _scores(call, reached, patterns)
    if call.name in ("add", "sub"):
        total = torch.zeros((), dtype=torch.int32)
        for node in reached:
            total = total * (int(patterns[node].max()) + 1) + patterns[node]
        return total.expand(shape)
    if call.name in known.AFFINE - known.TRANSPOSED and reached == [call["input"]]:
        return _through_weights(call, patterns[reached[0]])
    return None


def _multiplies(call: Call, reached: Sequence[Node]) -> bool:
    """By one number, so that what is added alike stays so."""
    factors = [call["self"], call["other"]]
    if len(reached) != 1 or factors.count(reached[0]) != 1 or call["rounding_mode"] is not None:
        return False
    if call.name == "div" and reached[0] is not factors[0]:
        return False
    other = factors[1] if reached[0] is factors[0] else factors[0]
    return not isinstance(other, Node) or int(other.meta["val"].numel()) == 1


def _scores(call: Call, reached: Sequence[Node], patterns: Mapping[Node, Tensor]) -> Tensor | None:
    """What is added to every key alike adds to all the scores of a query alike."""
    left, right = call["self"], call["other"] or call["mat2"]
    if len(reached) != 1 or left is right or min(n.meta["val"].ndim for n in (left, right)) < 2:
        return None
    dim = -1 if reached[0] is right else -2
    if not _constant(patterns[reached[0]], [dim]):
        return None
    shape = call.node.meta["val"].shape
    alike = [1 if d == len(shape) + dim else n for d, n in enumerate(shape)]
    labels = torch.arange(math.prod(alike), dtype=torch.int32)
    return labels.reshape(alike).expand(shape)


def _through_weights(call: Call, pattern: Tensor) -> Tensor | None:
    """Constants of channels become others, unless padding cuts them off at the border."""
    channel = pattern.ndim - 1 - _spatial(call)
    padding = call["padding"] or 0
    padded = padding != "valid" if isinstance(padding, str) else any(tree_leaves(padding))
    if padded or not _constant(pattern, [d for d in range(pattern.ndim) if d != channel]):
        return None
    shape = call.node.meta["val"].shape
    labels = torch.arange(shape[channel], dtype=torch.int32)
    return labels.reshape(-1, *[1] * _spatial(call)).expand(shape)


def _spatial(call: Call) -> int:
    return cast(int, call["weight"].meta["val"].ndim) - 2


def moved(call: Call, *values: Tensor) -> Tensor:
    """What a shape operator does to other numbers in the places of its tensor inputs.

    Args:
        call: the operator.
        values: one for each of its input nodes, shaped as the node's own value.
    """
    if call.mutated:
        values = tuple(v.clone() for v in values)  # repeated numbers cannot be changed in place
    by_node = dict(zip(call.node.all_input_nodes, values, strict=True))

    def put(argument: Any) -> Any:
        return torch.fx.node.map_arg(argument, lambda n: by_node[n])

    args = [put(a) for a in call.node.args]
    kwargs = {k: put(v) for k, v in call.node.kwargs.items()}
    target: Any = call.node.target
    if call.name in ("view", "view_as"):
        # A repeated number has no strides that a view could keep.
        return values[0].reshape(call.node.meta["val"].shape)
    return cast(Tensor, target(*args, **kwargs))


def _absorbs(call: Call, patterns: Mapping[Node, Tensor]) -> bool:
    """The operator gives the same whatever is added to each of the channels."""
    reached = [n for n in nodes_of((call.node.args, *call.node.kwargs.values())) if n in patterns]
    if call.name in ("batch_norm", "instance_norm") and reached == [call["input"]]:
        pattern = patterns[call["input"]]
        others = [d for d in range(pattern.ndim) if d != 1]
        return known.uses_own_statistics(call) and _constant(pattern, others)
    if call.name == "scaled_dot_product_attention" and reached == [call["key"]]:
        return _constant(patterns[call["key"]], [-2])
    if call.name in _SOFTMAX and reached == [call["self"]]:
        return _constant(patterns[call["self"]], [call["dim"]])
    return False


_SOFTMAX = ("softmax", "_softmax", "log_softmax", "_log_softmax")


def _constant(values: Tensor, dims: Sequence[int]) -> bool:
    varying = [d for d in dims if values.stride(d) and values.shape[d] > 1]
    return all(bool((values == values.narrow(d, 0, 1)).all()) for d in varying)
