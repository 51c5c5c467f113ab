"""What recurrent layers and cells demand of the channels they join: every unit has a scale."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from flatmeter.symmetry.channel_equations import ChannelEquations, pure_scale
from flatmeter.symmetry.channel_layers import channels_of
from flatmeter.symmetry.channel_scales import Scale, fixed
from flatmeter.symmetry.export import Call
from flatmeter.symmetry.recurrent import Direction, is_open, is_zero, layers_of, states_of


def recurrent(equations: ChannelEquations, call: Call) -> list[Scale] | None:
    """All steps of all layers."""
    if call["train"] and call["dropout"]:
        return None
    source = channels_of(equations, call["data"] if call["input"] is None else call["input"], -1)
    first, *cells = states_of(call)
    rows: list[Tensor] = []
    for directions in layers_of(call):
        outs = [_direction(equations, call, part, source) for part in directions]
        rows += outs
        source = torch.cat(outs)
    if not is_zero(first):
        equations.ids.same(equations.pure(first), torch.stack(rows).unsqueeze(1))
    for cell_state in cells:
        equations.fix(cell_state)
    scales = [pure_scale(source.unsqueeze(0)), pure_scale(torch.stack(rows).unsqueeze(1))]
    values = call.node.meta["val"]
    scales[0] = pure_scale(source.reshape(*[1] * (values[0].ndim - 1), -1))
    if values[1].ndim == 2:
        scales[1] = pure_scale(torch.stack(rows))
    return [*scales, *(fixed(value.ndim) for value in values[2:])]


def _direction(equations: ChannelEquations, call: Call, part: Direction, source: Tensor) -> Tensor:
    """The identifiers of a state ``[width]``."""
    width = (part.out if part.out is not None else part.across).meta["val"].shape
    still = torch.zeros(part.into.meta["val"].shape[0], dtype=torch.long)
    if is_open(call):
        out = hidden = equations.ids.fresh(width[1])
    else:
        hidden, out = still, still[: width[1]]
        if part.out is not None:
            out = equations.ids.fresh(width[0])
            equations.demand(part.out, out.reshape(-1, 1), torch.zeros(1, 1, dtype=torch.long))
    _weight(equations, part.into, hidden, source)
    _weight(equations, part.across, hidden, out)
    for bias in part.biases:
        equations.demand(bias, hidden, torch.zeros_like(hidden))
    return out


def _weight(equations: ChannelEquations, weight: Node, rows: Tensor, columns: Tensor) -> None:
    equations.demand(weight, rows.reshape(-1, 1), columns.reshape(1, -1))


def cell(equations: ChannelEquations, call: Call) -> Scale | list[Scale]:
    """One step."""
    first, *cells = states_of(call)
    size = call["w_ih"].meta["val"].shape[0]
    source, state = channels_of(equations, call["input"], -1), _state(equations, first)
    still = torch.zeros(size, dtype=torch.long)
    out = equations.ids.fresh(size) if is_open(call) else still
    if call.name in ("lstm_cell", "gru_cell"):
        # The state is also part of the next one as it is.
        equations.fix(first if call.name == "gru_cell" else cells[0])
    _weight(equations, call["w_ih"], out, source)
    _weight(equations, call["w_hh"], out, state)
    for bias in (call["b_ih"], call["b_hh"]):
        if bias is not None:
            equations.demand(bias, out, torch.zeros_like(out))
    value = call.node.meta["val"]
    if isinstance(value, (tuple, list)):
        return [fixed(v.ndim) for v in value]
    return pure_scale(out.reshape(*[1] * (value.ndim - 1), -1)) if is_open(call) else fixed(2)


def _state(equations: ChannelEquations, node: Node) -> Tensor:
    """The identifiers of a state's units; zeros have any."""
    if is_zero(node):
        return equations.ids.fresh(node.meta["val"].shape[-1])
    return channels_of(equations, node, -1)
