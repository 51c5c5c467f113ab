"""The laws of single channels: what rules make equal, numbered without gaps."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from flatmeter.symmetry.channel_equations import ChannelEquations
from flatmeter.symmetry.channel_rules import channel_equations
from flatmeter.symmetry.channel_scales import Scale
from flatmeter.symmetry.channels import numbered
from flatmeter.symmetry.export import Graph


@dataclass(frozen=True)
class ChannelLaws:
    """How the entries of every parameter scale.

    Args:
        equations: identifiers of every tensor of the graph.
        laws: of the parameters, by name.
        number: of every identifier, 0 where no parameter moves by it.
    """

    equations: ChannelEquations
    laws: Mapping[str, Scale]
    number: Tensor

    @classmethod
    def of(
        cls, graph: Graph, null: frozenset[Node], distrusted: Container[str] = ()
    ) -> ChannelLaws:
        """Those of a graph.

        Args:
            graph: of the network.
            null: biases that change nothing.
            distrusted: operators whose rule is not used, so that they fix what they touch.
        """
        equations = channel_equations(graph, null, distrusted)
        return cls(equations, *numbered(equations.laws, equations.ids))
