"""Recurrent layers and cells: their parts, and what they demand of log-scales.

``h ← relu(W x + b + U h + c)`` passes scales on: one for the state at tensor granularity, one for
every unit at channel granularity. Gates and tanh see numbers that must hold still, which weights
on the input can see to.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.fx import Node

from flatmeter.symmetry import operators as known
from flatmeter.symmetry.export import Call
from flatmeter.symmetry.system import ZERO

if TYPE_CHECKING:
    from flatmeter.symmetry.rules import Equations


@dataclass(frozen=True)
class Direction:
    """The parameters of one layer in one direction.

    Args:
        into: weight on the input.
        across: weight on the state.
        biases: none, or both.
        out: weight that projects the state, of an LSTM with ``proj_size``.
    """

    into: Node
    across: Node
    biases: tuple[Node, ...]
    out: Node | None = None


def layers_of(call: Call) -> list[list[Direction]]:
    """The directions of each layer, in order."""
    projects = len({state.meta["val"].shape[-1] for state in states_of(call)}) > 1
    parameters = list(call["params"])
    biases = 2 if call["has_biases"] else 0
    each = 2 + biases + projects
    directions = [
        Direction(p[0], p[1], tuple(p[2 : 2 + biases]), p[-1] if projects else None)
        for p in (parameters[i : i + each] for i in range(0, len(parameters), each))
    ]
    width = 2 if call["bidirectional"] else 1
    return [directions[i : i + width] for i in range(0, len(directions), width)]


def states_of(call: Call) -> list[Node]:
    """The states before the first step: h, and c of an LSTM."""
    return list(call["hx"]) if isinstance(call["hx"], (list, tuple)) else [call["hx"]]


def is_zero(node: Node) -> bool:
    """Holds zeros only, which have every scale."""
    name = str(getattr(node.target, "_opname", ""))
    if name in known.SHAPE | {"index_select"}:
        return is_zero(node.all_input_nodes[0])
    return name in ("zeros", "zeros_like", "new_zeros")


def is_open(call: Call) -> bool:
    """Passes the scale of its state on."""
    return call.name in ("rnn_relu", "rnn_relu_cell")


def recurrent(equations: Equations, call: Call) -> None:
    """All steps of all layers."""
    of, system = equations.of, equations.system
    if call["train"] and call["dropout"]:
        equations.fix(call)
        return
    source = of(call["data"] if call["input"] is None else call["input"])
    rows: list[Hashable] = []
    for depth, directions in enumerate(layers_of(call)):
        outs: list[Hashable] = []
        for side, part in enumerate(directions):
            out = _state(equations, call, part, (call.node, depth, side))
            hidden = out if is_open(call) else ZERO
            system.total([(source, 1), (of(part.into), 1), (hidden, -1)])
            system.total([(out, 1), (of(part.across), 1), (hidden, -1)])
            system.equal([hidden, *map(of, part.biases)])
            outs.append(out)
        system.equal(outs)
        source = outs[0]
        rows += outs
    first, *cells = states_of(call)
    if not is_zero(first):
        system.equal([of(first), *rows])
    system.zero(map(of, cells))
    equations.parts[call.node, 0] = source
    _last_states(equations, call, rows)


def _state(equations: Equations, call: Call, part: Direction, unknown: Hashable) -> Hashable:
    """The unknown of a state: free, that of the projection that makes it, or zero."""
    if is_open(call):
        return unknown
    return ZERO if part.out is None else equations.of(part.out)


def _last_states(equations: Equations, call: Call, rows: list[Hashable]) -> None:
    """The states after the last step, one row for each layer and direction; cells hold still."""
    for user in call.node.users:
        if user.args[1] == 2:
            equations.parts[call.node, 2] = ZERO
        elif user.args[1] == 1:
            equations.parts[call.node, 1] = (call.node, "states")
            for taker in user.users:
                if not _takes_row(taker):
                    equations.system.equal([(call.node, "states"), *rows])
                    continue
                index: Any = taker.args[2]
                equations.parts[taker, 0] = rows[index]


def _takes_row(node: Node) -> bool:
    if getattr(node.target, "_opname", "") != "select":
        return False
    return (node.args[1], type(node.args[2])) == (0, int)


def cell(equations: Equations, call: Call) -> None:
    """One step."""
    of, system = equations.of, equations.system
    states = states_of(call)
    out = of(call.node) if is_open(call) else ZERO
    system.total([(of(call["input"]), 1), (of(call["w_ih"]), 1), (out, -1)])
    system.total([(of(states[0]), 1), (of(call["w_hh"]), 1), (out, -1)])
    biases = [call[name] for name in ("b_ih", "b_hh") if call[name] is not None]
    system.equal([out, of(call.node), *map(of, biases)])
    if call.name in ("lstm_cell", "gru_cell"):
        # The state is also part of the next one as it is.
        system.zero(map(of, states if call.name == "gru_cell" else states[1:]))
