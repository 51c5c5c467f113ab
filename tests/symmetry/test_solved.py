"""Graphs are exported and solved once for each architecture, and verified for every checkpoint."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.model.zoo import cnn, mlp
from flatmeter.symmetry import solved
from flatmeter.symmetry.find import find_group


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class Switched(nn.Module):
    """What it computes depends on a number in Python, or on a weight's value in Python."""

    def __init__(self, looks=False):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
        self.smooth, self.looks = False, looks

    def forward(self, x):
        smooth = bool(self.a.bias[0] > 0) if self.looks else self.smooth
        return self.b((torch.tanh if smooth else F.relu)(self.a(x)))


@pytest.fixture(autouse=True)
def exports(monkeypatch):
    """Counts the graphs that are made; none is known beforehand."""
    solved._SOLVED.clear()
    made = []
    graph = solved.network_graph

    def counted(*arguments):
        made.append(arguments)
        return graph(*arguments)

    monkeypatch.setattr(solved, "network_graph", counted)
    yield made
    solved._SOLVED.clear()


def group_of(net, x, names=None):
    names = names or [n for n, p in net.named_parameters() if p.requires_grad]
    return find_group(net.eval(), x, names)


def alone(net, x):
    """The group where nothing is known beforehand."""
    solved._SOLVED.clear()
    return group_of(net, x)


def reseeded(net, seed):
    net = copy.deepcopy(net)
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1.0)
    return net


def assert_same(one, other):
    for field in ("names", "unknown_operators", "error", "exact_error", "notes"):
        assert getattr(one, field) == getattr(other, field), field
    assert list(map(vars, one.generators)) == list(map(vars, other.generators))
    assert np.array_equal(one.basis, other.basis)
    assert one.channels.count == other.channels.count
    assert one.channels.null == other.channels.null
    for a, b in zip(one.channels.laws, other.channels.laws, strict=True):
        assert torch.equal(a.plus, b.plus)
        assert torch.equal(a.minus, b.minus)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (mlp(4, [5, 6], 3, norm="batch"), (4,)),
        (cnn(1, [4], 3), (1, 8, 8)),
        (Tied(), (4,)),
        (nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 3)), (4,)),
    ],
)
def test_the_group_is_that_of_a_checkpoint_alone(exports, net, shape):
    x = torch.randn(6, *shape)
    nets = [reseeded(net, seed) for seed in range(3)]
    shared = [group_of(net, x) for net in nets]
    assert len(exports) == 1
    for own, net in zip(shared, nets, strict=True):
        assert_same(own, alone(net, x))


def test_a_symmetry_is_verified_with_every_checkpoints_weights(exports):
    """Weights that are not finite break every symmetry; a silent network shows nothing."""
    x, net = torch.randn(6, 4), mlp(4, [5], 3)
    broken, silent = reseeded(net, 1), reseeded(net, 2)
    with torch.no_grad():
        broken.linear0.weight[0, 0] = float("nan")
        silent.head.weight.zero_()
        silent.head.bias.zero_()
    for one, dim, said in [(net, 1, ""), (broken, 0, "contradicts"), (silent, 1, "zero")] * 2:
        group = group_of(one, x)
        assert group.dim == dim
        assert said in " ".join(group.notes)
        assert bool(group.notes) == bool(said)
    assert len(exports) == 1


def test_a_number_that_loading_set_in_python_makes_another_graph(exports):
    x, plain, smooth = torch.randn(6, 4), Switched(), Switched()
    smooth.smooth = True
    assert [group_of(net, x).dim for net in (plain, smooth, plain, smooth)] == [1, 0, 1, 0]
    assert len(exports) == 2


def test_a_graph_that_depends_on_a_weights_value_is_not_shared(exports):
    x, relu, tanh = torch.randn(6, 4), Switched(looks=True), Switched(looks=True)
    with torch.no_grad():
        relu.a.bias[0], tanh.a.bias[0] = -1.0, 1.0
    for _ in range(2):
        assert [len(group_of(net, x).generators) for net in (relu, tanh)] == [1, 0]
    assert len(exports) == 4


def test_other_inputs_and_other_fixed_parameters_are_asked_anew(exports):
    net = mlp(4, [5], 3)
    group_of(net, torch.randn(6, 4))
    group_of(net, torch.randn(5, 4))
    some = group_of(net, torch.randn(6, 4), ["linear0.weight", "head.weight"])
    assert some.names == ("linear0.weight", "head.weight")
    assert len(exports) == 3


def test_nothing_of_a_checkpoint_is_kept():
    net = mlp(4, [5], 3, norm="batch")
    x = torch.randn(6, 4)
    group_of(net, x)
    (known,) = solved._SOLVED.values()
    held = [v for v in known.graph.values.values() if isinstance(v, torch.Tensor)]
    assert held == []
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_the_last_few_architectures_are_kept(exports, monkeypatch):
    monkeypatch.setattr(solved, "KEPT", 2)
    x = torch.randn(6, 4)
    nets = [mlp(4, [width], 3) for width in (2, 3, 4)]
    for net in (*nets, nets[1], nets[2], nets[0]):
        group_of(net, x)
    assert len(exports) == 4
