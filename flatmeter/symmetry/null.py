"""Biases that change nothing: what they add is taken away again by the operator that follows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node

from flatmeter.symmetry import operators as known
from flatmeter.symmetry.export import Call, Graph, nodes_of


def null_biases(graph: Graph) -> frozenset[Node]:
    """Parameters that are only ever added, per channel, where a constant has no effect.

    Such is the bias of a convolution in front of a batch-norm that uses the batch's own mean, and
    that of the keys in attention: it shifts all the scores of a query alike, and softmax does not
    see it.
    """
    if not graph.is_static:
        return frozenset()
    users: dict[Node, list[Call]] = defaultdict(list)
    for call in graph.calls:
        for node in call.node.all_input_nodes:
            users[node].append(call)
    return frozenset(
        node
        for node in graph.parameters
        if users[node] and all(_is_null(node, call, users, graph.outputs) for call in users[node])
    )


def _is_null(
    bias: Node, call: Call, users: Mapping[Node, Sequence[Call]], outputs: Sequence[Node]
) -> bool:
    """``call`` adds ``bias`` to every channel, and nothing that uses the sum can tell."""
    if call.name not in known.AFFINE or call["bias"] is not bias:
        return False
    if bias in (call["input"], call["weight"]):
        return False
    shape = call.node.meta["val"].shape
    channels = torch.arange(bias.meta["val"].numel(), dtype=torch.int32)
    if call.name != "linear":
        channels = channels.reshape(-1, *[1] * (len(shape) - 2))
    frontier = [(call.node, channels.expand(shape))]
    while frontier:
        node, channel = frontier.pop()
        if node in outputs or not users[node]:
            return False
        for user in users[node]:
            if user.name in known.SHAPE and list(user.node.all_input_nodes) == [node]:
                if isinstance(user.node.meta["val"], (list, tuple)):
                    return False
                frontier.append((user.node, moved(user, channel)))
            elif not _absorbs(user, node, channel):
                return False
    return True


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


def _absorbs(call: Call, node: Node, channel: Tensor) -> bool:
    """The operator gives the same whatever is added to each of the channels."""
    if call.name in ("batch_norm", "instance_norm"):
        others = [d for d in range(channel.ndim) if d != 1]
        only_input = call["input"] is node and list(nodes_of(call.node.args)).count(node) == 1
        return only_input and known.uses_own_statistics(call) and _constant(channel, others)
    if call.name == "scaled_dot_product_attention":
        return (
            call["key"] is node
            and node not in (call["query"], call["value"], call["attn_mask"])
            and _constant(channel, [-2])
        )
    return False


def _constant(values: Tensor, dims: Sequence[int]) -> bool:
    return all(bool((values == values.narrow(d, 0, 1)).all()) for d in dims)
