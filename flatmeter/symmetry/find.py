"""Find the scaling symmetries of a network from its graph, and verify them by evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from flatmeter.randomness import derived_generator
from flatmeter.symmetry.channel_equations import ChannelEquations
from flatmeter.symmetry.channel_rules import channel_equations
from flatmeter.symmetry.channels import channel_scales, numbered
from flatmeter.symmetry.export import exported_graph
from flatmeter.symmetry.group import ChannelScales, Generator, SymmetryGroup
from flatmeter.symmetry.rules import Equations
from flatmeter.symmetry.verify import Evaluator, change_under, verified


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
    graph = exported_graph(module, inputs, names)
    equations = Equations(graph)
    evaluator = Evaluator(module, inputs, names)
    generators, error, notes = verified(_generators(equations, names), evaluator)
    channels, more = _channels(channel_equations(graph, equations.null), evaluator)
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
        error=error,
        notes=notes + more,
    )


def _generators(equations: Equations, names: tuple[str, ...]) -> tuple[Generator, ...]:
    """The null space, one generator for each of its vectors, in the order of the tensors."""
    generators = []
    for vector in equations.system.null_space(names):
        moves = {name: int(vector[name]) for name in names if name in vector}
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


def _channels(
    equations: ChannelEquations, evaluator: Evaluator
) -> tuple[ChannelScales, tuple[str, ...]]:
    """The scales of single channels, or none where evaluation contradicts them."""
    shapes = {name: p.shape for name, p in evaluator.parameters.items()}
    laws, count = numbered(equations.laws, equations.ids)
    scales = channel_scales(laws, count, shapes, equations.null_names)
    if count == 1:
        return scales, ()
    source = derived_generator(0, "channel symmetry")
    e = torch.exp(torch.rand(count, generator=source, dtype=torch.float64) - 0.5)
    e[0] = 1.0
    element = {name: laws[name].factor(e) for name in shapes if name in laws}
    if change_under([element], evaluator, up_to_eps=equations.normalises) is not None:
        return scales, ()
    note = "evaluation contradicts the symmetries of single channels, so none is used"
    return ChannelScales.none(len(scales.plus)), (note,)
