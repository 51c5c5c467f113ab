"""Running statistics after a move, against those that the moved network would have gathered."""

from __future__ import annotations

import copy

import torch
from torch import nn

from flatmeter.risk.batch_norm import private_copy
from flatmeter.symmetry.statistics import moved_statistics


def net():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
    )
    with torch.no_grad():
        for p in layers.parameters():
            p += 0.3 * torch.randn_like(p)
    return layers.double()


def gathered(module, x):
    """The statistics that training gathers in many steps on these inputs."""
    module = copy.deepcopy(module).train()
    for norm in (module[1], module[4]):
        norm.momentum, norm.num_batches_tracked = None, torch.tensor(0)
    module(x)
    return module


def test_they_are_what_the_moved_network_gathers():
    module, x = net(), torch.randn(6, 1, 9, 9).double()
    moved = {
        "0.weight": module[0].weight.detach() * torch.tensor([0.25, 3.0, 1.5]).view(3, 1, 1, 1),
        "0.bias": module[0].bias.detach() * -7.0,  # taken away again: any value will do
        "3.weight": module[3].weight.detach() * 5.0,
    }
    batch = private_copy(module, bn="batch", device=torch.device("cpu"), dtype=torch.float64)
    # Other inputs than the statistics come from: the law is that of the layer.
    changes = moved_statistics(batch, moved, torch.randn(4, 1, 9, 9).double())
    assert list(changes) == ["1", "4"]
    before, after = gathered(module, x), copy.deepcopy(module)
    after.load_state_dict({**module.state_dict(), **moved})
    after = gathered(after, x)
    for name, (factor, shift) in changes.items():
        old, new = before[int(name)], after[int(name)]
        torch.testing.assert_close(
            new.running_mean, factor * old.running_mean + shift, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            new.running_var, factor.square() * old.running_var, rtol=1e-4, atol=1e-4
        )


def test_a_channel_without_spread_moves_with_its_constant():
    module = net()
    with torch.no_grad():
        module[0].weight[1] = 0.0
    batch = private_copy(module, bn="batch", device=torch.device("cpu"), dtype=torch.float64)
    moved = {"0.weight": module[0].weight.detach() * 2, "0.bias": module[0].bias.detach() * 2}
    factor, shift = moved_statistics(batch, moved, torch.randn(4, 1, 9, 9).double())["1"]
    constant = module[0].bias[1].detach()
    torch.testing.assert_close(factor, torch.full((3,), 2.0).double())
    torch.testing.assert_close(factor[1] * constant + shift[1], 2 * constant)
