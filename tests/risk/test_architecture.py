"""What counts as the same architecture, and what does not."""

from __future__ import annotations

import copy
import sys
import types

import pytest
import torch
from torch import nn

from flatmeter.model.zoo import mlp
from flatmeter.risk.architecture import architecture


class Scaled(nn.Module):
    def __init__(self, factor=1.0, table=None):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.factor, self.table = factor, table

    def forward(self, x):
        return self.factor * self.b(self.a(x - self.mean))


def other_weights(net):
    net = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.normal_()
    return net


@pytest.mark.parametrize(
    "net",
    [
        Scaled(2.0, torch.arange(3)),
        mlp(4, [5], 3, norm="batch"),
        nn.LSTM(3, 4, num_layers=2),
        nn.TransformerEncoderLayer(8, 2, 16),
    ],
    ids=lambda net: type(net).__name__,
)
def test_other_weights_are_the_same_architecture(net):
    assert architecture(net) is not None
    assert architecture(net) == architecture(other_weights(net))


def tied(net):
    net.b.weight = net.a.weight


def frozen(net):
    net.b.weight.requires_grad_(False)


def hooked(net):
    net.a.register_forward_hook(print)


CHANGES = [
    tied,
    frozen,
    hooked,
    lambda net: net.double(),
    lambda net: net.eval(),
    lambda net: setattr(net, "factor", 2.0),
    lambda net: setattr(net, "table", torch.tensor([1.0, 3.0])),
    lambda net: setattr(net, "b", nn.Linear(3, 3, bias=False)),
    lambda net: setattr(net, "mean", None),
]


@pytest.mark.parametrize("change", CHANGES)
def test_everything_else_makes_another_one(change):
    net = Scaled(table=torch.tensor([1.0, 2.0]))
    other = copy.deepcopy(net)
    change(other)
    assert architecture(other) != architecture(net)


def test_a_file_that_was_imported_anew_may_compute_something_else():
    def net():
        module = sys.modules["architecture_again"] = types.ModuleType("architecture_again")
        code = "from torch import nn\nclass Net(nn.Linear):\n    pass"
        exec(code, module.__dict__)
        return module.Net(2, 2)

    try:
        first, second = net(), net()
        assert architecture(second) is not None
        assert architecture(second) == architecture(copy.deepcopy(second))
        assert architecture(first) is None  # its class is that of no module any more
    finally:
        del sys.modules["architecture_again"]


def test_what_cannot_be_looked_into_is_like_nothing_else():
    net = Scaled()
    net.factor = lambda x: x
    assert architecture(net) is None
