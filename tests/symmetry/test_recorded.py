"""Networks that torch.export refuses: their graphs are recorded, and their groups known by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.errors import NotApplicable
from flatmeter.symmetry.export import exported_graph
from flatmeter.symmetry.find import find_group


class Net(nn.Module):
    """``c(relu(b(f(a(x)))))`` with something in between that cannot be exported."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)
        self.between = between

    def forward(self, x):
        return self.c(F.relu(self.b(self.between(self.a(x)))))


def branch(x):
    """Scaling changes no sign."""
    return F.relu(x) if x.mean() > 0 else F.leaky_relu(x)


def threshold(x):
    """Scaling changes what is above one tenth."""
    return F.relu(x) if x.abs().mean() > 0.1 else F.leaky_relu(x)


def through_numpy(x):
    return torch.from_numpy(np.maximum(x.detach().numpy(), 0))


def through_array(x):
    return torch.tensor(np.asarray(x.detach()) ** 2)


def item(x):
    """Python's arithmetic is not seen."""
    largest = float(x.abs().max())
    return x / largest if largest > 0 else x


def data(x):
    return F.relu(x.data)


def deep(x):
    return F.relu(copy.deepcopy(x))


FIRST = "a.weight, a.bias up; b.weight down"
LAST = "b.weight, b.bias up; c.weight down"

CASES = [
    (branch, {FIRST, LAST}),
    (threshold, {LAST}),
    (through_numpy, {LAST}),
    (through_array, {LAST}),
    (item, {LAST}),
    (data, {FIRST, LAST}),
    (deep, {FIRST, LAST}),
]


def group_of(net, x):
    return find_group(net, x, [n for n, _ in net.named_parameters()])


@pytest.mark.parametrize(("between", "words"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_group(between, words):
    torch.manual_seed(0)
    net, x = Net(between).double(), torch.randn(8, 4).double()
    with pytest.raises(NotApplicable):
        exported_graph(net, x, [n for n, _ in net.named_parameters()])
    group = group_of(net, x)
    assert {g.words for g in group.generators} == words
    assert group.error < 1e-12
    (note,) = group.notes
    assert "torch.export refuses" in note
    # The last hidden channels can be scaled one by one.
    assert group.channels.count - 1 >= 6


def test_the_reason_points_to_the_line(capfd):
    net = Net(branch)
    (note,) = group_of(net, torch.randn(8, 4)).notes
    assert "test_recorded.py:" in note
    assert "if x.mean() > 0" in note
    assert capfd.readouterr() == ("", "")


def test_a_branch_that_other_inputs_take_counts_too():
    """For large inputs a relu, for small ones tanh."""

    class Switch(Net):
        def forward(self, x):
            f = F.relu if x.abs().mean() > 0.5 else torch.tanh
            return self.c(F.relu(self.b(f(self.a(x)))))

    torch.manual_seed(0)
    group = group_of(Switch(None).double(), torch.randn(8, 4).double())
    assert {g.words for g in group.generators} == {LAST}
    assert any("contradicts" in note and "a.weight" in note for note in group.notes)


class Experts(nn.Module):
    """Every sample goes to the expert that a gate picks."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(3)
        )

    def forward(self, x):
        share, out = self.gate(x).softmax(-1), torch.zeros(len(x), 3)
        for i, expert in enumerate(self.experts):
            chosen = share.argmax(-1) == i
            if chosen.any():
                out[chosen] = expert(x[chosen]) * share[chosen, i : i + 1]
        return out


def test_experts_have_a_symmetry_each():
    torch.manual_seed(0)
    group = group_of(Experts(), torch.randn(12, 4))
    assert [g.words for g in group.generators] == [
        f"experts.{i}.0.weight, experts.{i}.0.bias up; experts.{i}.2.weight down" for i in range(3)
    ]


def test_what_the_samples_do_not_reach_is_held_fixed_and_named():
    torch.manual_seed(0)
    net = Experts()
    with torch.no_grad():
        net.gate.bias[0] = -100.0
    group = group_of(net, torch.randn(12, 4))
    assert not any("experts.0" in g.words for g in group.generators)
    assert group.dim == 2
    assert any("experts.0.0.weight" in note for note in group.notes)


def test_buffers_that_running_the_network_changes_are_put_back():
    class Counting(Net):
        def __init__(self):
            super().__init__(branch)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    net = Counting()
    assert group_of(net, torch.randn(4, 4)).dim == 2
    assert float(net.calls) == 0


def test_what_does_not_run_at_all_gives_both_reasons():
    class Broken(Net):
        def forward(self, x):
            if x.sum() > 0 or True:
                raise RuntimeError("this network is broken")

    with pytest.raises(
        NotApplicable, match=r"neither exported nor recorded.*: this network is broken"
    ):
        group_of(Broken(None), torch.randn(4, 4))
