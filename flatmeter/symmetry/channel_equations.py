"""The identifiers of every tensor of a graph, as operators make them equal."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from flatmeter.symmetry import operators as known
from flatmeter.symmetry.channel_scales import Scale, fixed
from flatmeter.symmetry.channels import Identifiers
from flatmeter.symmetry.export import Graph
from flatmeter.symmetry.written_eps import adds_eps

LARGEST_FREE_TENSOR = 2**20
"""Entries up to which a parameter outside the usual places gets identifiers of its own."""


@dataclass(frozen=True)
class Power:
    """The scale of a tensor whose entries move by a multiple of what identifiers say."""

    scale: Scale
    degree: Fraction


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
        self.powers: dict[Node, Power] = {}
        self.normalises = any(
            known.uses_own_statistics(call) or adds_eps(call) for call in graph.calls
        )

    def of(self, node: Any) -> Scale:
        """The identifiers of a tensor; of a parameter that has no law yet, new ones."""
        name = self.graph.parameters.get(node)
        if name is not None:
            return self.laws[name] if name in self.laws else self._free(node, name)
        if node in self.powers:
            # Only rules for powers know what to do with one; for others it must hold still.
            base = self.powers.pop(node).scale
            self.ids.fix(base.plus)
            self.ids.fix(base.minus)
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
        if not (scale.minus.any() or plus.any()):
            # A table that is tied to the head: gains on the way in, loses on the way out.
            self.ids.same(scale.plus, -minus)
            return
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
