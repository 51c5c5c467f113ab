"""What each operator demands of the channels of the tensors it joins.

The counterpart of the tensor rules with an identifier for every entry. Laws that identifiers
cannot express (the sum of two scales, as in a gate) fix what they touch: that hides symmetries and
invents none.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from flatmeter.symmetry import channel_layers as layers
from flatmeter.symmetry import channel_products as products
from flatmeter.symmetry import channel_recurrent as recurrent
from flatmeter.symmetry import operators as known
from flatmeter.symmetry.channel_equations import (
    LARGEST_FREE_TENSOR,
    ChannelEquations,
    Power,
    ndim,
    pure_scale,
)
from flatmeter.symmetry.channel_scales import Scale, fixed
from flatmeter.symmetry.export import Call, Graph, is_scaled
from flatmeter.symmetry.null import moved
from flatmeter.symmetry.written_eps import adds_eps

Value = Scale | list[Scale]
Rule = Callable[["ChannelEquations", Call], Scale | list[Scale] | None]


def channel_equations(
    graph: Graph, null: frozenset[Node], distrusted: Container[str] = ()
) -> ChannelEquations:
    """Run every operator's rule, in order.

    Args:
        graph: of the network.
        null: biases that change nothing.
        distrusted: operators whose rule is not used, so that they fix what they touch.
    """
    equations = ChannelEquations(graph, null)
    if not graph.is_static:
        return equations  # nothing can be followed through shapes that are not known
    for call in graph.calls:
        if call.name not in known.IGNORED:
            _apply(equations, call, trusted=call.name not in distrusted)
    for node in graph.outputs:
        equations.fix(node)
    return equations


def _apply(equations: ChannelEquations, call: Call, *, trusted: bool) -> None:
    found = products.power(equations, call) if trusted else None
    if isinstance(found, Power):
        equations.powers[call.node] = found
        return
    rule = _rule(call) if trusted else None
    value = found or (rule(equations, call) if rule is not None else None)
    if value is None:
        for node in call.node.all_input_nodes:
            if is_scaled(node):
                equations.fix(node)
        value = _fixed_like(call.node)
    equations.values[call.node] = value
    for node in call.mutated:
        if isinstance(value, Scale):
            before = equations.of(node)
            equations.ids.same(before.plus, value.plus)
            equations.ids.same(before.minus, value.minus)


def _fixed_like(node: Node) -> Value:
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return [fixed(v.ndim if isinstance(v, Tensor) else 0) for v in value]
    return fixed(ndim(node))


def _rule(call: Call) -> Rule | None:
    """The law of an operator with these arguments, ``None`` where it fixes what it touches."""
    if call.name in known.COMPARISONS:
        return _comparison
    if not is_scaled(call.node):
        return _taken_index if call.name == "getitem" else None
    if known.is_pointwise(call) or adds_eps(call):
        return _pointwise
    if known.is_padding(call):
        return _padding
    if known.is_norm_of_numbers(call):
        return _reduction
    return next((rule for names, rule in _RULES if call.name in names), None)


def _taken_index(equations: ChannelEquations, call: Call) -> Scale:
    return fixed(ndim(call.node))


def _comparison(equations: ChannelEquations, call: Call) -> Scale | None:
    """Which of two is larger stays if both scale alike; zero has every scale."""
    left, right = call["self"], call["other"]
    if isinstance(right, Node):
        a, b = equations.of(left), equations.of(right)
        equations.ids.same(a.plus, b.plus)
        equations.ids.same(a.minus, b.minus)
    elif right != 0:
        return None
    return fixed(ndim(call.node))


def _zeros(equations: ChannelEquations, call: Call) -> Scale | None:
    """Zeros have every scale: identifiers of their own."""
    shape = call.node.meta["val"].shape
    if shape.numel() > LARGEST_FREE_TENSOR:
        return None
    return pure_scale(equations.ids.fresh(*shape))


def _write(equations: ChannelEquations, call: Call) -> Value | None:
    """What is put among others scales like them, here all alike."""
    return None if call["reduce"] not in (None, "add") or call["value"] else _joint(equations, call)


def _selected(equations: ChannelEquations, call: Call) -> Scale:
    return _uniform(equations, equations.of(call["self"]), [call["dim"]])


def _sequence(equations: ChannelEquations, call: Call) -> Value | None:
    """Steps of sequences are moved; the last dimension holds the channels."""
    if call["padding_value"]:
        return None
    scale = equations.of(call["input"] if call["data"] is None else call["data"])
    dims = range(scale.plus.ndim - 1)
    whole = _uniform(equations, scale, dims)
    whole = Scale(whole.plus.reshape(-1), whole.minus.reshape(-1))
    moved_to = call.node.meta["val"]
    lead = [1] * (moved_to[0].ndim - 1)
    return [Scale(whole.plus.reshape(*lead, -1), whole.minus.reshape(*lead, -1)), fixed(1)]


def _pointwise(equations: ChannelEquations, call: Call) -> Scale:
    if call.name == "prelu":
        equations.fix(call["weight"])
    return equations.of(call["self"] if call["self"] is not None else call["input"])


def _getitem(equations: ChannelEquations, call: Call) -> Scale | None:
    value = equations.values.get(call["self"])
    return value[call["index"]] if isinstance(value, list) else None


def _shape(equations: ChannelEquations, call: Call) -> Value | None:
    """The operator itself, run on the identifiers."""
    nodes = call.node.all_input_nodes
    if any(not isinstance(n.meta.get("val"), Tensor) for n in nodes):
        return None
    if any(not is_scaled(n) and n is not call["other"] for n in nodes):
        return None
    like = call["other"] if call["other"] is not call["self"] else None
    scales = [fixed(ndim(n)) if n is like else equations.of(n) for n in nodes]
    shapes = [n.meta["val"].shape for n in nodes]
    plus = _carried(call, [s.plus for s in scales], shapes)
    minus = _carried(call, [s.minus for s in scales], shapes)
    results = [Scale(p, m).squeezed() for p, m in zip(plus, minus, strict=True)]
    return results[0] if isinstance(call.node.meta["val"], Tensor) else results


def _carried(call: Call, ids: Sequence[Tensor], shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Where an operator takes identifiers; those that hold still need no carrying."""
    if not any(x.any() for x in ids):
        value = _fixed_like(call.node)
        return [s.plus for s in (value if isinstance(value, list) else [value])]
    out = moved(call, *(x.expand(shape) for x, shape in zip(ids, shapes, strict=True)))
    return [out] if isinstance(out, Tensor) else list(out)


def _pooling(equations: ChannelEquations, call: Call) -> Value:
    dims = next(k for k in (1, 2, 3) if f"{k}d" in call.name)
    scale = equations.of(call["self"] if call["self"] is not None else call["input"])
    return _like_output(call, _uniform(equations, scale, range(-dims, 0)))


def _padding(equations: ChannelEquations, call: Call) -> Scale:
    dims = len(call["pad"]) // 2
    return _uniform(equations, equations.of(call["self"]), range(-dims, 0))


def _reduction(equations: ChannelEquations, call: Call) -> Scale:
    return products.reduced(equations, equations.of(call["self"]), call)


def _joint(equations: ChannelEquations, call: Call) -> Value | None:
    """One identifier for the whole input; of two inputs, the larger number by number."""
    if call.name in ("max", "min") and isinstance(call["other"], Node):
        return _sum(equations, call)
    whole = fixed(0)
    for i, node in enumerate(n for n in call.node.all_input_nodes if is_scaled(n)):
        scale = equations.of(node)
        one = _uniform(equations, scale, range(scale.plus.ndim))
        one = Scale(one.plus.reshape(()), one.minus.reshape(()))
        if i:
            equations.ids.same(one.plus, whole.plus)
            equations.ids.same(one.minus, whole.minus)
        whole = one
    if isinstance(call["other"], Node) and not is_scaled(call["other"]):
        equations.ids.fix(whole.plus)
        equations.ids.fix(whole.minus)
    return _like_output(call, whole)


def _like_output(call: Call, scale: Scale) -> Value:
    """The scale with as many dimensions as each output has."""

    def shaped(value: Any) -> Scale:
        dims = value.ndim if isinstance(value, Tensor) else 0
        lead = [1] * (dims - scale.plus.ndim)
        return Scale(
            scale.plus.reshape((*lead, *scale.plus.shape)),
            scale.minus.reshape((*lead, *scale.minus.shape)),
        )

    value = call.node.meta["val"]
    return [shaped(v) for v in value] if isinstance(value, (list, tuple)) else shaped(value)


def _uniform(equations: ChannelEquations, scale: Scale, dims: Sequence[int]) -> Scale:
    return Scale(equations.ids.uniform(scale.plus, dims), equations.ids.uniform(scale.minus, dims))


def _sum(equations: ChannelEquations, call: Call) -> Scale | None:
    other = call["src"] if call.name == "copy" else call["other"]
    terms = [x for x in (call["self"], other) if isinstance(x, Node) or x != 0]
    if not all(isinstance(x, Node) for x in terms):
        return None
    scale = equations.of(terms[0])
    for term in terms[1:]:
        right = equations.of(term)
        scale = Scale(
            equations.ids.same(scale.plus, right.plus), equations.ids.same(scale.minus, right.minus)
        )
    return scale


def _sign(equations: ChannelEquations, call: Call) -> Scale:
    return fixed(ndim(call.node))


_RULES: tuple[tuple[frozenset[str], Rule], ...] = (
    (frozenset({"getitem"}), _getitem),
    (known.SHAPE, _shape),
    (known.CASTS, _pointwise),
    (known.POOLING, _pooling),
    (frozenset({"index_select"}), _selected),
    (known.JOINT, _joint),
    (known.ZEROS, _zeros),
    (known.WRITES, _write),
    (known.SEQUENCES, _sequence),
    (known.RECURRENT, recurrent.recurrent),
    (known.CELLS, recurrent.cell),
    (known.SUMS, _sum),
    (frozenset({"mul"}), products.product),
    (frozenset({"div"}), products.quotient),
    (frozenset({"matmul", "bmm", "mm"}), layers.matmul),
    (frozenset({"addmm"}), layers.addmm),
    (frozenset({"mv", "dot", "vdot"}), layers.vector_product),
    (known.AFFINE, layers.affine),
    (known.NORMS, layers.norm),
    (frozenset({"scaled_dot_product_attention"}), layers.attention),
    (frozenset({"embedding"}), layers.embedding),
    (frozenset({"_weight_norm"}), layers.weight_norm),
    (frozenset({"sign"}), _sign),
)
