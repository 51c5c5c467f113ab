"""Where a scaling goes wrong: the operators from a parameter to the first wrong value."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

from flatmeter.risk.attention import math_attention
from flatmeter.symmetry.export import Call, Graph
from flatmeter.symmetry.ideal import LOWER
from flatmeter.symmetry.verify import Factor
from flatmeter.symmetry.written_eps import LARGEST

UNWRITTEN = ("empty", "empty_like", "new_empty")
"""What these hold is not a number yet."""

NO_EPS = 1e-12
"""What an ε is multiplied by."""

Expected = Callable[[Node], float | Tensor]
"""What the rules say that a node's value is multiplied by."""


@dataclass(frozen=True)
class Contradiction:
    """An operator whose output is not scaled as its rule says, though its inputs are.

    Args:
        operator: its name.
        chain: the way to it from a parameter that moves, ``0.weight → linear → gelu in 1``.
    """

    operator: str
    chain: str


def contradiction(
    graph: Graph,
    null: Container[Node],
    element: Mapping[str, Factor],
    expected: Expected,
    tolerance: float,
) -> Contradiction | None:
    """Run the graph before and after, side by side, up to the first value that is wrong.

    Args:
        graph: with the values of its inputs, parameters and buffers.
        null: biases that change nothing.
        element: what the parameters are multiplied by, by name.
        expected: of every node.
        tolerance: relative.

    Returns:
        ``None`` where every value is as expected, or the graph does not run.
    """
    uses = Counter(n for call in graph.calls for n in call.node.all_input_nodes)
    moved = {**element, **_null_factors(graph, null, expected)}
    try:
        with torch.no_grad(), math_attention():
            sides = _given(graph, moved)
            for call in graph.calls:
                before, after = pair = tuple(_run(call.node, values) for values in sides)
                wrong = _wrong(before, after, expected(call.node))
                if wrong > tolerance and call.name not in UNWRITTEN:
                    return Contradiction(call.name, _chain(graph, call, element))
                for node in call.node.all_input_nodes:
                    uses[node] -= 1
                for values, value in zip(sides, pair, strict=True):
                    values[call.node] = value
                    for node in call.node.all_input_nodes:
                        if not uses[node]:
                            values.pop(node, None)
    except Exception:  # an explanation must not be what stops a measurement
        return None
    return None


def _given(graph: Graph, moved: Mapping[str, Factor]) -> tuple[dict[Node, Any], dict[Node, Any]]:
    """The values that the graph starts from, before and after."""
    before, after = dict(graph.values), dict(graph.values)
    for node, value in graph.values.items():
        name = graph.parameters.get(node)
        if name is not None and name in moved:
            factor = moved[name]
            after[node] = value * (factor() if callable(factor) else factor)
        elif name is None and isinstance(value, Tensor):
            # Operators may write to these.
            before[node], after[node] = value.clone(), value.clone()
    return before, after


def _null_factors(graph: Graph, null: Container[Node], expected: Expected) -> dict[str, Factor]:
    """A bias that changes nothing, scaled as what it is added to, so that sums stay comparable."""
    factors: dict[str, Factor] = {}
    for call in graph.calls:
        bias = call["bias"]
        if isinstance(bias, Node) and bias in null:
            factor = torch.as_tensor(expected(call.node)).reshape(-1)
            if len(factor) in (1, bias.meta["val"].numel()):
                factors[graph.parameters[bias]] = factor
    return factors


def _run(node: Node, values: Mapping[Node, Any]) -> Any:
    """An operator's value, in float64 and with hardly any ε."""

    def taken(argument: Any) -> Any:
        if isinstance(argument, Node):
            return values[argument]
        if isinstance(argument, float) and 0.0 < argument <= LARGEST:
            return argument * NO_EPS
        return torch.float64 if argument in LOWER else argument

    target: Any = node.target
    return target(*map_aggregate(node.args, taken), **map_aggregate(node.kwargs, taken))


def _wrong(before: Any, after: Any, factor: float | Tensor) -> float:
    """Relative distance from what is expected; 0 for what is not a tensor of real numbers."""
    if not (isinstance(before, Tensor) and before.is_floating_point()):
        return 0.0
    right = before * torch.as_tensor(factor, dtype=before.dtype, device=before.device)
    size = right.nan_to_num(0.0, 0.0, 0.0).norm().clamp_min(1e-300)
    return float((after - right).masked_fill(after == right, 0.0).norm() / size)


def _chain(graph: Graph, call: Call, element: Mapping[str, Factor]) -> str:
    """The shortest way to an operator from a parameter that moves."""
    names = {c.node: c.name for c in graph.calls}
    after: dict[Node, Node | None] = {call.node: None}
    queue = deque([call.node])
    node: Node | None = call.node
    while queue:
        node = queue.popleft()
        if graph.parameters.get(node) in element:
            break
        for source in node.all_input_nodes:
            if source not in after:
                after[source] = node
                queue.append(source)
    way = []
    while node is not None:
        way.append(graph.parameters.get(node) or names.get(node, node.name))
        node = after[node]
    stack = list((call.node.meta.get("nn_module_stack") or {}).values())
    layer = stack[-1][0].removeprefix("net").removeprefix(".") if stack else ""
    return " → ".join(way) + (f" in {layer}" if layer else "")
