"""The flat vector and the tensors it stands for."""

from __future__ import annotations

import torch
from torch import nn

from flatmeter.risk.space import ParameterSpace


def tied():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    net[2].weight = net[0].weight
    net[3].bias.requires_grad_(False)
    return net


def test_tied_and_frozen_parameters():
    space = ParameterSpace.from_module(tied())
    assert space.names == ("0.weight", "0.bias", "2.bias", "3.weight")
    assert space.frozen == ("3.bias",)
    assert space.tied == {"0.weight": ("2.weight",)}
    assert space.dim == 9 + 3 + 3 + 6


def test_round_trip_and_blocks():
    space = ParameterSpace.from_module(tied())
    flat = torch.arange(float(space.dim))
    tensors = space.unflatten(flat)
    assert tensors["3.weight"].shape == (2, 3)
    torch.testing.assert_close(space.flatten(tensors), flat)
    torch.testing.assert_close(flat[space.slice("2.bias")], tensors["2.bias"])
    rows = space.unflatten(torch.stack([flat, 2 * flat]))
    assert rows["0.weight"].shape == (2, 3, 3)
    torch.testing.assert_close(rows["0.weight"][1], 2 * tensors["0.weight"])
    assert space.spread(torch.arange(4.0)).unique().tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(space.block_norms(flat)[2], tensors["2.bias"].norm().double())


def test_unflatten_gives_views():
    space = ParameterSpace.from_module(tied())
    flat = torch.zeros(space.dim)
    flat += 1
    assert space.unflatten(flat)["0.bias"].data_ptr() == flat[9:].data_ptr()


def test_a_parameter_without_dimensions():
    module = nn.ParameterDict({"scale": nn.Parameter(torch.tensor(2.0)), "w": torch.ones(3)})
    space = ParameterSpace.from_module(module)
    flat = space.flatten(dict(module.named_parameters()))
    assert space.unflatten(flat)["scale"].shape == ()
    assert space.unflatten(flat.expand(4, -1))["scale"].shape == (4,)
