"""The identifiers of every tensor of a graph, as operators make them equal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from flatmeter.symmetry import operators as known
from flatmeter.symmetry.channel_scales import Scale, fixed
from flatmeter.symmetry.channels import Identifiers
from flatmeter.symmetry.export import Graph

LARGEST_FREE_TENSOR = 2**20
"""Entries up to which a parameter outside the usual places gets identifiers of its own."""


class ChannelEquations:
    """Identifiers for every tensor of a graph, as the rules build them up.

    Args:
        graph: of the network.
        null: biases that change nothing.

    Attributes:
        normalises: something is divided by statistics of its own, with an ε that makes scales of
            it only approximately symmetries.
    """

    def __init__(self, graph: Graph, null: frozenset[Node]) -> None:
        self.graph, self.null = graph, null
        self.ids = Identifiers()
        self.laws: dict[str, Scale] = {}
        self.values: dict[Node, Scale | list[Scale]] = {}
        self.normalises = any(map(known.uses_own_statistics, graph.calls))

    def of(self, node: Any) -> Scale:
        """The identifiers of a tensor; of a parameter that has no law yet, new ones."""
        name = self.graph.parameters.get(node)
        if name is not None:
            return self.laws[name] if name in self.laws else self._free(node, name)
        value = self.values.get(node)
        if isinstance(value, Scale):
            return value
        return fixed(ndim(node)) if isinstance(node, Node) else fixed(0)

    def pure(self, node: Any) -> Tensor:
        """The identifiers of something that may only gain a scale."""
        scale = self.of(node)
        self.ids.fix(scale.minus)
        return scale.plus

    def open_parameter(self, node: Any) -> str | None:
        """The name of a parameter that has no law yet, so that its first use may give it one."""
        name = self.graph.parameters.get(node)
        return name if name is not None and name not in self.laws else None

    def demand(self, node: Any, plus: Tensor, minus: Tensor) -> None:
        """Give a tensor a law, or make the one it has agree."""
        name = self.open_parameter(node)
        if name is not None:
            self.laws[name] = Scale(plus, minus)
            return
        scale = self.of(node)
        self.ids.same(scale.plus, plus)
        self.ids.same(scale.minus, minus)

    def fix(self, node: Any) -> None:
        """Hold a tensor at its scale."""
        value = self.values.get(node)
        scales = value if isinstance(value, list) else [self.of(node)]
        for scale in scales:
            self.ids.fix(scale.plus)
            self.ids.fix(scale.minus)

    def _free(self, node: Node, name: str) -> Scale:
        shape = node.meta["val"].shape
        if shape.numel() > LARGEST_FREE_TENSOR:
            self.laws[name] = fixed(len(shape))
        else:
            self.laws[name] = Scale(self.ids.fresh(*shape), self.ids.fresh(*shape))
        return self.laws[name]


def ndim(node: Node) -> int:
    """Number of dimensions of a node's tensor."""
    value = node.meta.get("val")
    return value.ndim if isinstance(value, Tensor) else 0


def pure_scale(plus: Tensor) -> Scale:
    """The scale of something that gains these identifiers."""
    return Scale(plus, torch.zeros([1] * plus.ndim, dtype=torch.long))
