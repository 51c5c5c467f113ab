"""Recurrent layers and cells: groups counted by hand at both granularities."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.symmetry.find import find_group


class Recurrent(nn.Module):
    """A linear stem, a recurrent layer, and a head that sees its last output or last state."""

    def __init__(self, layer, width, see="output", stem=True):
        super().__init__()
        self.stem = nn.Linear(4, 4) if stem else nn.Identity()
        self.layer, self.head, self.see = layer, nn.Linear(width, 3), see

    def forward(self, x):
        outputs, state = self.layer(F.relu(self.stem(x)))
        state = state[0] if isinstance(state, tuple) else state
        seen = {"output": outputs[:, -1], "state": state[-1]}
        return self.head(seen[self.see])


class Unrolled(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(4, 4), cell, nn.Linear(5, 3)

    def forward(self, x):
        state = None
        for step in F.relu(self.stem(x)).unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Learned(nn.Module):
    """The state before the first step is a parameter."""

    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 1, 5))
        self.layer = nn.RNN(4, 5, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.layer(x, self.start.expand(1, len(x), 5))[0][:, -1])


class Packed(nn.Module):
    """Sequences of different lengths."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.RNN(4, 5, nonlinearity="relu", batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        lengths = torch.tensor([3, 1, 2])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        return self.head(self.layer(packed)[1][-1])


def relu(layers=1, **how):
    return nn.RNN(4, 5, layers, nonlinearity="relu", batch_first=True, **how)


# Every case has the stem's scale (of four channels), which the weights on the input take back.
CASES = {
    "rnn of relus": (lambda: Recurrent(relu(), 5), 2, 4 + 5),
    "rnn of relus, no bias": (lambda: Recurrent(relu(bias=False), 5), 2, 4 + 5),
    # One scale for each layer.
    "two layers": (lambda: Recurrent(relu(2), 5), 3, 4 + 10),
    "two layers, last state": (lambda: Recurrent(relu(2), 5, "state"), 3, 4 + 10),
    # Both directions meet the same tensors behind them.
    "two directions": (lambda: Recurrent(relu(2, bidirectional=True), 10), 3, 4 + 20),
    "rnn of tanh": (lambda: Recurrent(nn.RNN(4, 5, batch_first=True), 5), 1, 4),
    "lstm": (lambda: Recurrent(nn.LSTM(4, 5, batch_first=True), 5), 1, 4),
    "gru": (lambda: Recurrent(nn.GRU(4, 5, batch_first=True), 5, "state"), 1, 4),
    # The projection of each layer's state.
    "projected lstm": (
        lambda: Recurrent(nn.LSTM(4, 5, 2, proj_size=2, batch_first=True), 2),
        3,
        4 + 4,
    ),
    "cell of relus": (lambda: Unrolled(nn.RNNCell(4, 5, nonlinearity="relu")), 2, 4 + 5),
    "cell of tanh": (lambda: Unrolled(nn.RNNCell(4, 5)), 1, 4),
    "lstm cell": (lambda: Unrolled(nn.LSTMCell(4, 5)), 1, 4),
    "gru cell": (lambda: Unrolled(nn.GRUCell(4, 5)), 1, 4),
    # Without a stem: the state's scale alone.
    "learned state": (Learned, 1, 5),
    "packed sequences": (Packed, 1, 5),
}


@pytest.mark.parametrize("name", CASES)
def test_group(name):
    torch.manual_seed(0)
    make, dim, channels = CASES[name]
    net = make().double().eval()
    group = find_group(net, torch.randn(3, 3, 4).double(), [n for n, _ in net.named_parameters()])
    # torch.export refuses packed sequences.
    assert len(group.notes) == (name == "packed sequences")
    assert group.dim == dim
    assert group.channels.count - 1 == channels
    assert group.error < 1e-12
