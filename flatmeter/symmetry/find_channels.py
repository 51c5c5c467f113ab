"""Solve for the scales of single channels, verify them, and cut them back where they fail."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.fx import Node

from flatmeter.randomness import derived_generator
from flatmeter.symmetry.channel_equations import ChannelEquations
from flatmeter.symmetry.channel_laws import ChannelLaws
from flatmeter.symmetry.channel_scales import ChannelScales, Scale, fixed, signed
from flatmeter.symmetry.contradiction import contradiction
from flatmeter.symmetry.export import Graph
from flatmeter.symmetry.verify import Evaluator, Factor, change_under


def find_channels(
    graph: Graph, null: frozenset[Node], by_rules: ChannelLaws, evaluator: Evaluator
) -> tuple[ChannelScales, tuple[str, ...]]:
    """The scales of single channels, and what evaluation has against some of them.

    An operator whose rule is contradicted is taken for one without a rule, so that the rest is
    still found.

    Args:
        graph: of the evaluator's network.
        null: biases that change nothing.
        by_rules: the laws by all rules.
        evaluator: of the network.
    """
    distrusted: dict[str, str] = {}
    while True:
        found_laws = ChannelLaws.of(graph, null, distrusted) if distrusted else by_rules
        equations, laws, number = found_laws.equations, found_laws.laws, found_laws.number
        if not number.any():
            return _scales({}, 1, null, graph, evaluator), tuple(distrusted.values())
        e = _random_factors(int(number.abs().max()) + 1)
        element: dict[str, Factor] = {n: partial(law.factor, e) for n, law in laws.items()}
        if change_under([element], evaluator, up_to_eps=equations.normalises) is not None:
            scales = _scales(laws, len(e), null, graph, evaluator)
            return scales, tuple(distrusted.values())
        expected = partial(_expected, equations, signed(e, number))
        found = contradiction(graph, null, element, expected, evaluator.rounding)
        if found is None or found.operator in distrusted:
            note = "evaluation contradicts the symmetries of single channels, so none is used"
            return _scales({}, 1, null, graph, evaluator), (note,)
        distrusted[found.operator] = (
            f"evaluation contradicts the rule of {found.operator} for single channels "
            f"({found.chain}), so what it joins is held fixed, and the group is smaller"
        )


def _random_factors(count: int) -> Tensor:
    source = derived_generator(0, "channel symmetry")
    e = torch.exp(torch.rand(count, generator=source, dtype=torch.float64) - 0.5)
    e[0] = 1.0
    return e


def _expected(equations: ChannelEquations, e: Tensor, node: Node) -> Tensor | float:
    value = equations.values.get(node)
    return value.factor(e) if isinstance(value, Scale) else 1.0


def _scales(
    laws: Mapping[str, Scale],
    count: int,
    null: frozenset[Node],
    graph: Graph,
    evaluator: Evaluator,
) -> ChannelScales:
    shapes = {name: p.shape for name, p in evaluator.parameters.items()}
    biases = {graph.parameters[node] for node in null}
    return ChannelScales(
        tuple(laws.get(name) or fixed(len(shape)) for name, shape in shapes.items()),
        tuple(shapes.values()),
        count,
        tuple(name in biases for name in shapes),
    )
