from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.risk.replaced import replaced


def test_values_are_there_inside_the_block_only():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    values = {"0.bias": torch.full((2,), 3.0).double(), "1.running_mean": torch.ones(2)}
    with replaced(net, values):
        for name, value in values.items():
            torch.testing.assert_close(net.state_dict()[name], value.float())
        torch.testing.assert_close(net[0].weight, before["0.weight"])
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


def test_values_are_restored_after_a_failure():
    net = nn.Linear(2, 2)
    before = net.weight.clone()
    with pytest.raises(RuntimeError), replaced(net, {"weight": torch.zeros(2, 2)}):
        raise RuntimeError
    assert torch.equal(net.weight, before)


def test_recurrent_cells_see_them():
    """Their kernels hold the tensors themselves."""
    cell, other = nn.LSTM(3, 4), nn.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    with replaced(cell, dict(other.named_parameters())):
        torch.testing.assert_close(cell(x)[0], other(x)[0])
