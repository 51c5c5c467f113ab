"""Copies of networks that hold tensors from a forward pass."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from flatmeter.risk.module_copy import module_copy


def test_a_composed_weight_is_copied_without_its_graph():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.nn.utils.weight_norm(nn.Linear(3, 2))
    x = torch.randn(4, 3)
    expected = net(x)
    copy = module_copy(net)
    torch.testing.assert_close(copy(x), expected)
    with torch.no_grad():
        copy.weight_g *= 2
    torch.testing.assert_close(net(x), expected)


def test_shared_parameters_stay_shared():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    copy = module_copy(net)
    assert copy[0].weight is copy[1].weight
    assert copy[0].weight is not net[0].weight
