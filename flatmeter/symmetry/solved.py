"""The equations of a network's symmetries and their solutions: once for each architecture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import cached_property

from flatmeter.risk.architecture import architecture
from flatmeter.symmetry.channel_laws import ChannelLaws
from flatmeter.symmetry.export import Graph
from flatmeter.symmetry.group import Generator
from flatmeter.symmetry.kinds import Kinds
from flatmeter.symmetry.network_graph import network_graph
from flatmeter.symmetry.rules import Equations
from flatmeter.symmetry.system import Vector
from flatmeter.symmetry.verify import Evaluator

KEPT = 8
"""Architectures whose solutions are kept, those used last."""

_SOLVED: OrderedDict[Hashable, Solved] = OrderedDict()


class Solved:
    """What the graph of a network says of its symmetries, before they are evaluated.

    No rule looks at a weight, so that it holds for every network of the architecture.

    Args:
        graph: of the network.
        names: the parameter tensors that may be scaled.

    Attributes:
        equations: between the log-scales of tensors.
        solutions: the null space, a generator for each of its vectors, in the order of the tensors.
    """

    def __init__(self, graph: Graph, names: Sequence[str]) -> None:
        self.graph = graph
        self.equations = Equations(graph)
        self.solutions = _solutions(self.equations, tuple(names))

    @cached_property
    def channels(self) -> ChannelLaws:
        """The scales of single channels by all rules."""
        return ChannelLaws.of(self.graph, self.equations.null)


def solved(evaluator: Evaluator, names: tuple[str, ...]) -> tuple[Solved, Graph]:
    """The symmetries that a network's graph shows, and this graph with the network's numbers.

    A graph that was recorded holds for these weights and inputs only, and is not kept.

    Args:
        evaluator: of the network, which is exported or recorded.
        names: the parameter tensors that may be scaled.

    Raises:
        NotApplicable: the graph can be neither exported nor recorded.
    """
    module, inputs = evaluator.module, evaluator.inputs
    built = architecture(module)
    key = (built, tuple(inputs.shape), inputs.dtype, inputs.device, names)
    if built is not None and key in _SOLVED:
        _SOLVED.move_to_end(key)
        return _SOLVED[key], _SOLVED[key].graph.with_numbers(module, inputs)
    graph = network_graph(module, inputs, names)
    if built is None or graph.note:
        return Solved(graph, names), graph
    _SOLVED[key] = Solved(graph.without_numbers(), names)
    if len(_SOLVED) > KEPT:
        _SOLVED.popitem(last=False)
    return _SOLVED[key], graph


def _solutions(equations: Equations, names: tuple[str, ...]) -> dict[Generator, Vector]:
    solutions = {}
    kinds = Kinds(equations.graph, equations.of, equations.normalised)
    for vector in equations.system.null_space(names):
        moves = {name: int(vector[name]) for name in names if name in vector}
        exact = not any(vector.get(u) for u in equations.normalised)
        kind = kinds.kind(vector, moves)
        solutions[Generator.of(moves, exact=exact, kind=kind)] = vector
    position = {name: i for i, name in enumerate(names)}
    return dict(sorted(solutions.items(), key=lambda item: [position[n] for n in item[0].moves]))
