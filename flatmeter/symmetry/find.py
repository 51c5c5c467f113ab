"""Find the scaling symmetries of a network from its graph, and verify them by evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn
from torch.fx import Node

from flatmeter.symmetry.contradiction import contradiction
from flatmeter.symmetry.export import Graph
from flatmeter.symmetry.find_channels import find_channels
from flatmeter.symmetry.group import Generator, SymmetryGroup
from flatmeter.symmetry.other_inputs import other_inputs
from flatmeter.symmetry.rules import Equations
from flatmeter.symmetry.solved import solved
from flatmeter.symmetry.system import Vector
from flatmeter.symmetry.verify import Evaluator, Factor, verified


def find_group(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> SymmetryGroup:
    """The scaling symmetries of a network, read from its exported graph and verified.

    Args:
        module: the network in the mode it is measured in; left as it is.
        inputs: example inputs ``[n, …]``.
        names: the parameter tensors that may be scaled; their order is the group's.

    Returns:
        The group; symmetries that evaluation contradicts are left out and noted.

    Raises:
        NotApplicable: the graph can be neither exported nor recorded.
    """
    names = tuple(names)
    evaluator = Evaluator(module, inputs, names)
    found, graph = solved(evaluator, names)
    if graph.note:
        evaluator.others = other_inputs(evaluator.module, evaluator.inputs)
    equations, solutions = found.equations, found.solutions
    generators, exact_error, error = verified(tuple(solutions), evaluator)
    notes = tuple(
        _dropped(generator, vector, equations, graph, evaluator)
        for generator, vector in solutions.items()
        if generator not in generators
    )
    channels, more = find_channels(graph, equations.null, found.channels, evaluator)
    if graph.note:
        more += (graph.note,)
    if equations.unknown:
        listed = ", ".join(sorted(equations.unknown))
        more += (f"there is no rule for {listed}, which may hide a symmetry",)
    if generators and evaluator.is_silent:
        more += ("all outputs are zero, so evaluation could not test the symmetries",)
    return SymmetryGroup(
        names=names,
        basis=_basis(generators, names),
        generators=generators,
        channels=channels,
        unknown_operators=dict(equations.unknown),
        error=max(exact_error, error),
        exact_error=exact_error,
        notes=notes + more,
    )


def _dropped(
    generator: Generator,
    vector: Vector,
    equations: Equations,
    graph: Graph,
    evaluator: Evaluator,
) -> str:
    """That evaluation contradicts a symmetry, and where."""
    step = 1.0 / max(abs(k) for k in generator.moves.values())
    element: dict[str, Factor] = {n: math.exp(step * k) for n, k in generator.moves.items()}

    def expected(node: Node) -> float:
        return math.exp(step * vector.get(equations.of(node), 0))

    found = contradiction(graph, equations.null, element, expected, evaluator.rounding)
    where = f": scaling breaks along {found.chain}" if found else ""
    return (
        f"evaluation contradicts the symmetry \u201c{generator.words}\u201d, so it is left out "
        f"and the group is smaller{where}"
    )


def _basis(generators: Sequence[Generator], names: tuple[str, ...]) -> np.ndarray:
    position = {name: i for i, name in enumerate(names)}
    basis = np.zeros((len(names), len(generators)))
    for column, generator in enumerate(generators):
        for name, steps in generator.moves.items():
            basis[position[name], column] = steps
    return basis
