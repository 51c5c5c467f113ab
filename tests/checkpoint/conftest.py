"""A small network with batch-norm, its weights, and files of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def small_net(seed=0, hidden=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture
def net():
    model = small_net()
    model[1].running_mean.normal_()
    return model


@pytest.fixture
def state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.fixture
def fresh():
    """The same network with other weights."""
    return lambda **options: small_net(seed=1, **options)


@pytest.fixture
def saved(tmp_path):
    """``saved(value)`` is a path that holds the value."""

    def write(value, name="c.pt", **options):
        torch.save(value, tmp_path / name, **options)
        return tmp_path / name

    return write


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(name="equal")
def equal_fixture():
    return equal
