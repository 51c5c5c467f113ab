"""What each operator demands of the log-scales of the tensors it joins: one unknown per tensor.

Every equation says: if my inputs are scaled so, my output is scaled so, exactly. An operator that
is not known, or known not to commute with scaling, holds all its tensors fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from fractions import Fraction

from torch import Tensor
from torch.fx import Node

from flatmeter.symmetry import operators as known
from flatmeter.symmetry.export import Call, Graph, is_scaled, nodes_of
from flatmeter.symmetry.null import null_biases
from flatmeter.symmetry.recurrent import cell, recurrent
from flatmeter.symmetry.system import ZERO, System
from flatmeter.symmetry.written_eps import adds_eps

Rule = Callable[["Equations", Call], None]


class Equations:
    """The linear system of a graph, one unknown for each parameter and each intermediate tensor.

    Attributes:
        system: the equations.
        normalised: unknowns of what goes into a normalisation, whose ε makes a scaling of it
            only approximately a symmetry.
        null: biases that change nothing, and so may have any scale.
        unknown: operators without a rule, with how often each occurs.
        parts: unknowns of the outputs of an operator whose outputs do not scale alike.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.null = null_biases(graph)
        self.system = System()
        self.normalised: list[Hashable] = []
        self.unknown: Counter[str] = Counter()
        self.parts: dict[tuple[Node, int], Hashable] = {}
        for call in graph.calls:
            self._add(call)
        self.system.zero([*map(self.of, graph.outputs), *graph.unreached])

    def of(self, value: object) -> Hashable:
        """The unknown of a tensor; zero for numbers, integers, inputs and buffers."""
        if not isinstance(value, Node) or not is_scaled(value):
            return ZERO
        if value in self.graph.parameters:
            return self.graph.parameters[value]
        return ZERO if value.op != "call_function" and not _is_empty(value) else value

    def _add(self, call: Call) -> None:
        if call.name in known.IGNORED:
            return
        self.system.equal([self.of(call.node), *map(self.of, call.mutated)])
        rule = _rule(call)
        if rule is None:
            self.fix(call)
            touched = (call.node, *call.node.all_input_nodes)
            if call.name not in known.KNOWN and any(self.of(n) != ZERO for n in touched):
                self.unknown[call.name] += 1
        else:
            rule(self, call)

    def fix(self, call: Call) -> None:
        """Hold every tensor of a call at its scale."""
        self.system.zero([self.of(call.node), *map(self.of, call.node.all_input_nodes)])

    def rest(self, call: Call, *used: str) -> None:
        """Hold the tensors that are not among the named arguments at their scale."""
        nodes = {n for name in used for n in nodes_of(call[name])}
        self.system.zero(self.of(n) for n in call.node.all_input_nodes if n not in nodes)


def _is_empty(node: Node) -> bool:
    """No number that could have a scale: a cache before the first token."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and any(isinstance(n, int) and n == 0 for n in value.shape)


def _rule(call: Call) -> Rule | None:
    """The law of an operator with these arguments, ``None`` where it has none."""
    if call.name in known.COMPARISONS:
        return _comparison
    if not is_scaled(call.node):
        return _invariant if call.name in known.INVARIANT else None
    if adds_eps(call):
        return _eps
    if known.is_pointwise(call) or known.is_padding(call) or known.is_norm_of_numbers(call):
        return _unary
    return next((rule for names, rule in _RULES if call.name in names), None)


def _same(equations: Equations, call: Call) -> None:
    """A scale for all: of every part of a concatenation, and of what is taken from it."""
    equations.system.equal(
        [equations.of(call.node)]
        + [
            equations.of(node)
            for name, value in call.arguments.items()
            for node in nodes_of(value)
            if name != "other" and (is_scaled(node) or name == "tensors")
        ]
    )


def _cast(equations: Equations, call: Call) -> None:
    """Numbers keep their scale; truths and whole numbers, as of a mask, have none."""
    equations.system.equal([equations.of(call.node), equations.of(call.node.all_input_nodes[0])])


def _unary(equations: Equations, call: Call) -> None:
    equations.system.equal([equations.of(call.node), equations.of(call["self"] or call["input"])])
    equations.rest(call, "self", "input")


def _comparison(equations: Equations, call: Call) -> None:
    """Which of two is larger stays if both scale alike; zero has every scale."""
    sides = [call["self"], call["other"]]
    equations.system.equal(equations.of(x) for x in sides if isinstance(x, Node) or x != 0)


def _eps(equations: Equations, call: Call) -> None:
    """What is kept from zero goes on as it is, approximately."""
    _unary(equations, call)
    equations.normalised.append(equations.of(call.node))


def _part(equations: Equations, call: Call) -> None:
    """One of several outputs: of a shape operator all scale alike."""
    source: Node = call["self"]
    whole = equations.of(source)
    own = equations.parts.get((source, call["index"]), whole)
    equations.system.equal([equations.of(call.node), own])


def _select(equations: Equations, call: Call) -> None:
    """Of the last states of a recurrent layer a row is one layer's; else as the rest."""
    own = equations.parts.get((call.node, 0))
    if own is None:
        _same(equations, call)
    else:
        equations.system.equal([equations.of(call.node), own])


def _moments(equations: Equations, call: Call) -> None:
    """Variance and mean at once."""
    source = equations.of(call["self"])
    for i, degree in enumerate(known.MOMENTS[call.name]):
        equations.parts[call.node, i] = (call.node, i)
        equations.system.total([(source, Fraction(degree)), ((call.node, i), -1)])


def _joint(equations: Equations, call: Call) -> None:
    """Over all of the input at once; a second tensor (of ``max``) scales alike."""
    operands = [n for n in call.node.all_input_nodes if is_scaled(n)]
    operands += list(nodes_of(call["other"]))
    equations.system.equal(map(equations.of, [call.node, *operands]))


def _write(equations: Equations, call: Call) -> None:
    """What is put among others scales like them; zero has every scale."""
    if call["reduce"] not in (None, "add"):
        equations.fix(call)
        return
    others = [call[name] for name in ("src", "values", "source", "value")]
    terms = [x for x in (call["self"], *others) if isinstance(x, Node) or x not in (None, 0)]
    equations.system.equal(map(equations.of, [call.node, *terms]))


def _sequence(equations: Equations, call: Call) -> None:
    if call["padding_value"]:
        equations.fix(call)
    else:
        equations.system.equal(map(equations.of, [call.node, call["input"] or call["data"]]))


def _sum(equations: Equations, call: Call) -> None:
    """Terms scale alike; a number that is not zero holds the other term fixed."""
    operands = [call["self"], call["src"] if call.name == "copy" else call["other"]]
    terms = [x for x in operands if isinstance(x, Node) or x != 0]
    equations.system.equal(map(equations.of, [call.node, *terms]))
    equations.rest(call, "self", "other", "src")


def _product(equations: Equations, call: Call) -> None:
    factors = [n for value in call.arguments.values() for n in nodes_of(value)]
    equations.system.total(
        [(equations.of(call.node), -1), *((equations.of(n), 1) for n in factors)]
    )


def _summed_product(equations: Equations, call: Call) -> None:
    of, out = equations.of, equations.of(call.node)
    factors = [n for key, v in call.arguments.items() if key != "self" for n in nodes_of(v)]
    equations.system.equal([out, of(call["self"])])
    equations.system.total([(out, -1), *((of(n), 1) for n in factors)])


def _quotient(equations: Equations, call: Call) -> None:
    if call["rounding_mode"] is not None:
        equations.fix(call)
        return
    of = equations.of
    equations.system.total([(of(call["self"]), 1), (of(call["other"]), -1), (of(call.node), -1)])


def _power(equations: Equations, call: Call) -> None:
    exponent = known.POWERS.get(call.name, call["exponent"])
    if isinstance(exponent, Node) or isinstance(call["self"], (int, float)):
        equations.fix(call)
        return
    degree = Fraction(exponent)
    equations.system.total([(equations.of(call["self"]), degree), (equations.of(call.node), -1)])


def _affine(equations: Equations, call: Call) -> None:
    of, out = equations.of, equations.of(call.node)
    equations.system.total([(of(call["input"]), 1), (of(call["weight"]), 1), (out, -1)])
    if isinstance(call["bias"], Node) and call["bias"] not in equations.null:
        equations.system.equal([of(call["bias"]), out])


def _norm(equations: Equations, call: Call) -> None:
    of, source = equations.of, equations.of(call["input"])
    if known.uses_own_statistics(call):
        equations.normalised.append(source)
    else:
        equations.system.zero([source])
    given = [call[n] for n in ("weight", "bias") if call[n] is not None]
    given = [node for node in given if node not in equations.null]
    equations.system.equal(map(of, [call.node, *given]) if given else [of(call.node), ZERO])
    # A shift without a scale stands beside numbers of norm one.
    if call["weight"] is None:
        equations.system.zero([of(call.node)])


def _attention(equations: Equations, call: Call) -> None:
    of = equations.of
    equations.system.total([(of(call["query"]), 1), (of(call["key"]), 1)])
    equations.system.equal([of(call["value"]), of(call.node)])
    equations.rest(call, "query", "key", "value")


def _embedding(equations: Equations, call: Call) -> None:
    equations.system.equal([equations.of(call["weight"]), equations.of(call.node)])
    equations.rest(call, "weight")


def _weight_norm(equations: Equations, call: Call) -> None:
    """``g v / ‖v‖`` has g's scale whatever v's is."""
    equations.system.equal([equations.of(call["g"]), equations.of(call.node)])


def _free(equations: Equations, call: Call) -> None:
    """A tensor of zeros has every scale."""
    equations.of(call.node)


def _invariant(equations: Equations, call: Call) -> None:
    equations.system.zero([equations.of(call.node)])


_RULES: tuple[tuple[frozenset[str], Rule], ...] = (
    (frozenset({"getitem"}), _part),
    (frozenset({"select"}), _select),
    (known.RECURRENT, recurrent),
    (known.CELLS, cell),
    (known.SHAPE, _same),
    (known.CASTS, _cast),
    (known.POOLING, _unary),
    (known.JOINT, _joint),
    (known.WRITES, _write),
    (known.SEQUENCES, _sequence),
    (known.SUMS, _sum),
    (known.PRODUCTS, _product),
    (known.SUMMED_PRODUCTS, _summed_product),
    (frozenset({"div"}), _quotient),
    (frozenset({"pow"} | set(known.POWERS)), _power),
    (known.AFFINE, _affine),
    (known.NORMS, _norm),
    (frozenset({"scaled_dot_product_attention"}), _attention),
    (frozenset({"embedding", "embedding_bag"}), _embedding),
    (frozenset({"_weight_norm"}), _weight_norm),
    (frozenset(known.MOMENTS), _moments),
    (known.ZEROS, _free),
    (known.INVARIANT, _invariant),
)
