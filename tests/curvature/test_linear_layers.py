from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.curvature.linear_layers import linear_layers

LABELS = torch.tensor([0, 1, 2, 1])


class Mixed(nn.Module):
    """An auxiliary head that runs last, layers defined out of order, an in-place activation."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Linear(6, 3)
        self.head = nn.Linear(6, 3)
        self.conv = nn.Conv2d(1, 6, 3)

    def forward(self, x):
        h = F.relu_(self.conv(x)).mean((2, 3))
        return self.head(h), self.auxiliary(h)


def test_order_of_execution_without_what_the_outputs_ignore(make_risk):
    layers = linear_layers(make_risk(Mixed(), torch.randn(4, 1, 5, 5), LABELS))
    assert [layer.name for layer in layers] == ["conv", "head"]
    assert [layer.is_convolution for layer in layers] == [True, False]
    assert [layer.outermost for layer in layers] == [False, True]
    assert all(layer.certified and layer.inseparable is None for layer in layers)


def test_a_layer_is_outermost_only_where_nothing_is_computed_after_it(make_risk):
    class Tail(nn.Module):
        def __init__(self, tail):
            super().__init__()
            self.head = nn.Linear(4, 3)
            self.tail = tail

        def forward(self, x):
            return self.tail(self.head(x))

    tails = {
        True: [lambda z: z, lambda z: z.reshape(-1, 3), lambda z: z.T.T.unsqueeze(2).squeeze(2)],
        False: [F.relu_, lambda z: 2 * z, lambda z: z[:, :2], lambda z: z.clamp(-99, 99)],
    }
    for outermost, functions in tails.items():
        for tail in functions:
            (layer,) = linear_layers(make_risk(Tail(tail), torch.randn(4, 4), LABELS))
            assert layer.outermost == outermost


def test_samples_that_interact(make_risk):
    class Interacting(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 5)
            self.second = nn.Linear(5, 3)

        def forward(self, x):
            h = torch.tanh(self.first(x))
            return self.second(h - h.mean(0))

    first, second = linear_layers(make_risk(Interacting(), torch.randn(4, 4), LABELS))
    assert first.inseparable == "samples interact after it"
    assert second.inseparable is None


def test_the_first_dimension_must_count_samples(make_risk):
    class SequenceFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(2, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.relu(self.embed(x.transpose(0, 1))).mean(0))

    class FirstPosition(SequenceFirst):
        def forward(self, x):
            return self.head(torch.relu(self.embed(x.transpose(0, 1)))[0])

    for kind in (SequenceFirst, FirstPosition):
        for tokens in (3, 4, 7):
            embed, head = linear_layers(make_risk(kind(), torch.randn(4, tokens, 2), LABELS))
            assert embed.inseparable
            assert head.inseparable is None
