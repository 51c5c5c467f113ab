"""What kind of rescaling a symmetry is, by the operators that take its scale up again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Literal

from torch.fx import Node

from flatmeter.symmetry import operators as known
from flatmeter.symmetry.export import Call, Graph, nodes_of

Kind = Literal[
    "between layers",
    "scale-invariant",
    "query-key",
    "value-output",
    "factors",
    "bias without effect",
    "unused",
]

_SOFTMAX = frozenset({"softmax", "_softmax", "_safe_softmax"})
#: What numbers are seen by when they leave for Python or NumPy.
_LEAVING = frozenset({"isnan", "item", "_local_scalar_dense"})
_PRODUCTS = known.PRODUCTS | known.SUMMED_PRODUCTS
#: What scores of attention pass on their way to softmax, and weights of attention after it.
_ON_THE_WAY = (
    known.SHAPE
    | known.CASTS
    | known.DROPOUTS
    | {"add", "sub", "mul", "div", "masked_fill", "where", "softcap"}
)


class Kinds:
    """Says of what kind a symmetry is.

    ==================== ==========================================================================
    between layers       one layer grows and the next ones shrink
    scale-invariant      a normalisation, of activations or of the weight itself, removes the scale
    query-key            queries grow and keys shrink: the scores of attention stay
    value-output         values grow and what reads the heads shrinks
    factors              two factors of a product, as in a gated unit or a low-rank weight
    bias without effect  the operator behind it takes the bias away again
    unused               the outputs do not depend on it
    ==================== ==========================================================================

    Args:
        graph: of the network.
        of: the unknown that stands for a node's log-scale.
        normalised: unknowns of what goes into a normalisation.
    """

    def __init__(
        self, graph: Graph, of: Callable[[object], Hashable], normalised: Sequence[Hashable]
    ) -> None:
        self.graph, self._of, self._normalised = graph, of, normalised

    def kind(self, vector: Mapping[Hashable, object], moves: Mapping[str, int]) -> Kind:
        """The kind of one symmetry.

        Args:
            vector: log-scales of all unknowns; those that are left out do not move.
            moves: those of parameters alone, by name.
        """

        def moved(node: object) -> bool:
            return bool(vector.get(self._of(node)))

        touched = [c for c in self.graph.calls if any(map(moved, c.node.all_input_nodes))]
        touched = [call for call in touched if call.node in self._seen]
        still = [call for call in touched if not moved(call.node)]
        up_only = len({k > 0 for k in moves.values()}) == 1
        if not touched:
            return "unused"
        normalised = any(vector.get(u) for u in self._normalised)
        if up_only and (normalised or any(self._normalises(call, moved) for call in still)):
            return "scale-invariant"
        if up_only and all(call.name in known.AFFINE | known.NORMS for call in still):
            return "bias without effect"
        if any(self._makes_scores(call, moved) for call in still):
            return "query-key"
        if any(self._takes_values(call, moved) for call in touched):
            return "value-output"
        if any(self._is_product(call, moved) for call in still):
            return "factors"
        return "between layers"

    def _normalises(self, call: Call, moved: Callable[[object], bool]) -> bool:
        """Divides by a size of its own input, which takes the input's scale away."""
        if call.name == "div":
            by_weight = call["other"] in self._weights and call["self"] not in self._weights
            return moved(call["self"]) and moved(call["other"]) and not by_weight
        if call.name in known.NORMS:
            return moved(call["input"])
        return call.name == "_weight_norm"

    def _makes_scores(self, call: Call, moved: Callable[[object], bool]) -> bool:
        if call.name == "scaled_dot_product_attention":
            return moved(call["query"])
        return self._is_product(call, moved) and self._meets(call.node, self._users)

    def _takes_values(self, call: Call, moved: Callable[[object], bool]) -> bool:
        if call.name == "scaled_dot_product_attention":
            return moved(call["value"])
        factors = _factors(call)
        if call.name not in _PRODUCTS or not any(map(moved, factors)):
            return False
        return any(self._meets(n, self._sources) for n in factors if not moved(n))

    def _is_product(self, call: Call, moved: Callable[[object], bool]) -> bool:
        """Of two things that move, neither of them a layer's input with its weight."""
        if call.name not in _PRODUCTS:
            return False
        factors = [n for n in _factors(call) if moved(n)]
        return len(factors) > 1 and len({n in self._weights for n in factors}) == 1

    def _meets(self, start: Node, near: Mapping[Node, Sequence[Call]]) -> bool:
        """A softmax stands behind or before a node, with nothing but little steps between."""
        todo, seen = [start], {start}
        while todo:
            for call in near[todo.pop()]:
                if call.name in _SOFTMAX:
                    return True
                following = [call.node] if near is self._users else call.node.all_input_nodes
                if call.name in _ON_THE_WAY:
                    todo += [n for n in following if n not in seen]
                    seen.update(following)
        return False

    @cached_property
    def _users(self) -> Mapping[Node, Sequence[Call]]:
        users: dict[Node, list[Call]] = defaultdict(list)
        for call in self.graph.calls:
            for node in call.node.all_input_nodes:
                users[node].append(call)
        return users

    @cached_property
    def _sources(self) -> Mapping[Node, Sequence[Call]]:
        sources: dict[Node, list[Call]] = defaultdict(list)
        for call in self.graph.calls:
            sources[call.node].append(call)
        return sources

    @cached_property
    def _weights(self) -> frozenset[Node]:
        """Parameters, and what is made of parameters alone."""
        weights = set(self.graph.parameters)
        for call in self.graph.calls:
            inputs = call.node.all_input_nodes
            if inputs and weights.issuperset(inputs):
                weights.add(call.node)
        return frozenset(weights)

    @cached_property
    def _seen(self) -> frozenset[Node]:
        """The nodes that outputs depend on, also by way of numbers that leave the graph."""
        left = [call.node for call in self.graph.calls if call.name in _LEAVING]
        seen, todo = {*self.graph.outputs, *left}, [*self.graph.outputs, *left]
        written: dict[Node, list[Node]] = defaultdict(list)
        for call in self.graph.calls:
            for node in call.mutated:
                written[node].append(call.node)
        while todo:
            node = todo.pop()
            near = {*node.all_input_nodes, *written[node]} - seen
            seen |= near
            todo += near
        return frozenset(seen)


def _factors(call: Call) -> list[Node]:
    """The factors of a product, without what is added to it."""
    summed = call.name in known.SUMMED_PRODUCTS
    values = [v for key, v in call.arguments.items() if not (summed and key == "self")]
    return [node for value in values for node in nodes_of(value)]
