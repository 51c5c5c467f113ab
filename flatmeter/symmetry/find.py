"""Find the scaling symmetries of a network from its graph, and verify them by evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from flatmeter.symmetry.export import exported_graph
from flatmeter.symmetry.group import ChannelScales, Generator, SymmetryGroup
from flatmeter.symmetry.rules import Equations
from flatmeter.symmetry.verify import Evaluator, verified


def find_group(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> SymmetryGroup:
    """The scaling symmetries of a network, read from its exported graph and verified.

    Args:
        module: the network in the mode it is measured in; left as it is.
        inputs: example inputs ``[n, …]``.
        names: the parameter tensors that may be scaled; their order is the group's.

    Returns:
        The group; symmetries that evaluation contradicts are left out and noted.

    Raises:
        NotApplicable: the graph cannot be exported.
    """
    names = tuple(names)
    equations = Equations(exported_graph(module, inputs, names))
    evaluator = Evaluator(module, inputs, names)
    generators, error, notes = verified(_generators(equations, names), evaluator)
    dim = sum(p.numel() for p in evaluator.parameters.values())
    return SymmetryGroup(
        names=names,
        basis=_basis(generators, names),
        generators=generators,
        channels=ChannelScales.none(dim),
        unknown_operators=dict(equations.unknown),
        error=error,
        notes=notes,
    )


def _generators(equations: Equations, names: tuple[str, ...]) -> tuple[Generator, ...]:
    """The null space, one generator for each of its vectors, in the order of the tensors."""
    generators = []
    for vector in equations.system.null_space(names):
        moves = {name: vector[name] for name in names if name in vector}
        exact = not any(vector.get(u) for u in equations.normalised)
        generators.append(Generator.of(moves, exact=exact))
    position = {name: i for i, name in enumerate(names)}
    return tuple(sorted(generators, key=lambda g: [position[n] for n in g.moves]))


def _basis(generators: Sequence[Generator], names: tuple[str, ...]) -> np.ndarray:
    position = {name: i for i, name in enumerate(names)}
    basis = np.zeros((len(names), len(generators)))
    for column, generator in enumerate(generators):
        for name, steps in generator.moves.items():
            basis[position[name], column] = steps
    return basis
