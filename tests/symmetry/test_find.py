"""What is found in networks and in single operators, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from flatmeter.symmetry.find import find_group


def group_of(net, x):
    return find_group(net, x, [n for n, p in net.named_parameters() if p.requires_grad])


def outputs(known, flat):
    return functional_call(known.net, known.space.unflatten(flat), (known.x,)).detach()


def test_every_operator_is_known_and_every_symmetry_believed(known):
    assert known.group.notes == ()
    assert known.group.unknown_operators == {}
    assert np.linalg.matrix_rank(known.group.basis) == known.group.dim


def test_outputs_do_not_see_random_elements(known):
    group, before = known.group, outputs(known, known.flat)
    for seed in range(3):
        a = group.random(torch.Generator().manual_seed(seed), size=2.0)
        assert np.abs(a).max() == pytest.approx(2.0 if group.dim else 0.0)
        after = outputs(known, group.act(a, known.flat, known.space))
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    assert group.error < 1e-10


def test_vertical_vectors_are_the_derivatives_of_the_action(known):
    group, space, flat = known.group, known.space, known.flat
    vertical = group.vertical(flat, space)
    assert vertical.shape == (group.dim, space.dim)
    for i, u in enumerate(np.eye(group.dim)):
        moved = group.act(1e-6 * group.scales(u), flat, space)
        torch.testing.assert_close((moved - flat) / 1e-6, vertical[i], rtol=1e-5, atol=1e-5)


def test_generators_say_what_they_do():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    (generator,) = group_of(net, torch.randn(2, 4)).generators
    assert generator.words == "0.weight, 0.bias up; 2.weight down"
    assert generator.moves == {"0.weight": 1, "0.bias": 1, "2.weight": -1}
    assert generator.exact


def test_multiples_are_integers():
    class Cubed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.outer(F.relu(self.inner(x)) ** 3)

    (generator,) = group_of(Cubed(), torch.randn(2, 4)).generators
    assert generator.words == "inner.weight, inner.bias up; outer.weight down 3"


def test_eps_makes_symmetries_approximate():
    net = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 3))
    group = group_of(net, torch.randn(3, 4))
    exact = {g.words: g.exact for g in group.generators}
    assert exact == {
        "0.weight, 0.bias up": False,
        "1.weight, 1.bias up; 3.weight down": True,
    }
    assert 1e-9 < group.error < 1e-2


def test_frozen_parameters_are_held_fixed():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    net[2].weight.requires_grad_(False)
    group = group_of(net, torch.randn(2, 4))
    assert group.dim == 1
    assert group.names == ("0.weight", "0.bias", "2.bias", "4.weight", "4.bias")
    # One scale runs through the frozen weight, which passes it on.
    assert group.generators[0].words == "0.weight, 0.bias, 2.bias up; 4.weight down"


def test_a_tied_tensor_is_one_unknown():
    net = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
    net[2].weight = net[0].weight
    group = group_of(net, torch.randn(2, 4))
    assert group.names == ("0.weight", "1.weight")
    assert group.generators[0].words == "0.weight up; 1.weight down 2"


def test_unknown_operators_hide_symmetries_and_are_named():
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            a, b, c = self.layers
            return c(F.relu(b(torch.special.bessel_j0(a(x)))))

    group = group_of(Strange(), torch.randn(2, 4))
    assert group.unknown_operators == {"special_bessel_j0": 1}
    assert [g.words for g in group.generators] == [
        "layers.1.weight, layers.1.bias up; layers.2.weight down"
    ]


@pytest.mark.parametrize(
    ("between", "dim"),
    [
        (lambda x: F.relu(x) + 1.0, 0),
        (lambda x: F.relu(x) + 0.0, 1),
        (lambda x: x.clamp(min=0), 1),
        (lambda x: x.clamp(min=0.1), 0),
        (lambda x: F.hardtanh(x), 0),
        (lambda x: F.pad(x, (1, 1))[:, 1:-1], 1),
        (lambda x: F.pad(x, (1, 1), value=0.5)[:, 1:-1], 0),
        (lambda x: torch.where(x > 0, x, 0.1 * x), 1),
        (lambda x: torch.where(x > 0.1, x, 0.1 * x), 0),
        (lambda x: torch.where(x > x.mean(), x, 0 * x), 1),
        (lambda x: (x - x.mean(1, keepdim=True)) * (x.var(1, keepdim=True) + 1e-7).rsqrt(), 2),
        (lambda x: F.normalize(x, dim=1), 2),
        (lambda x: x * (x.square().mean(1, keepdim=True) + 0.1).rsqrt(), 0),
        (lambda x: x + (x.abs() + 1e-6), 0),
        (lambda x: x - torch.var_mean(x, 1, keepdim=True)[1], 1),
        (lambda x: x.tril(), 1),
        (lambda x: x + x.clone().zero_(), 1),
        (lambda x: x.masked_fill(torch.arange(5) > 3, 0.0), 1),
        (lambda x: 2.0 * x / 3.0, 1),
        (lambda x: x.max(1, keepdim=True)[0] + x, 1),
        (lambda x: x * x.argmax(1, keepdim=True), 1),
        (lambda x: x / x.norm(dim=1, keepdim=True), 2),
        (lambda x: torch.linalg.vector_norm(x, 0, dim=1, keepdim=True) + 0 * x, 0),
        (lambda x: x.clone().relu_() * x, 1),
        # In place, so that whoever holds the same memory may see it: not believed.
        (lambda x: x.clone().mul_(x), 0),
        (lambda x: x.int().double() + x, 0),
        (lambda x: x * (x > 0).double(), 1),
        (lambda x: x * (x > 0).to(x) + x * (torch.arange(5) > 2).to(x.dtype), 1),
        (lambda x: x + torch.arange(5).double(), 0),
        (lambda x: x + F.one_hot(x.argmax(1), 5).type_as(x), 0),
        (lambda x: F.glu(torch.cat([x, x], 1)), 0),
        (lambda x: torch.einsum("ni,nj->ni", x, x), 1),
        (lambda x: torch.stack(x.unbind(1), 1).flip(1), 1),
        (lambda x: x.abs().sqrt(), 1),
    ],
)
def test_operators_one_at_a_time(between, dim):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5, bias=False), nn.Linear(5, 3)

        def forward(self, x):
            return self.b(between(self.a(x)).to(self.b.weight.dtype))

    torch.manual_seed(1)
    net = Net()
    # A vector of norm one leaves its scale: the weight before it is free.
    group = group_of(net, torch.randn(6, 4))
    assert group.notes == ()
    assert group.dim == min(dim, 1)
    for generator in group.generators:
        assert ("alone" in generator.words) == (dim == 2)


def test_the_slope_of_prelu_is_held_fixed():
    net = nn.Sequential(nn.Linear(4, 5), nn.PReLU(), nn.Linear(5, 3))
    (generator,) = group_of(net, torch.randn(3, 4)).generators
    assert generator.words == "0.weight, 0.bias up; 2.weight down"


def test_only_the_outputs_that_the_loss_sees_count():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            hidden = F.relu(self.a(x))
            return {"logits": self.b(hidden), "hidden": hidden}

    assert group_of(Two(), torch.randn(2, 4)).dim == 1


def test_the_network_is_left_as_it_is(make):
    net = make("batch-norm, stored")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    group_of(net, torch.randn(4, 3, 8, 8).double())
    assert not net.training
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_network_whose_outputs_are_zero_says_that_nothing_was_tested(make):
    net = make("mlp")
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    group = group_of(net, torch.randn(3, 4).double())
    assert group.dim == 2
    assert any("could not test" in note for note in group.notes)


def test_a_channel_with_hardly_any_variance_hides_no_symmetry():
    net = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)
    ).double()
    with torch.no_grad():
        net[0].weight[0] *= 1e-10
    group = group_of(net, torch.randn(6, 4).double())
    assert group.dim == 3
    assert group.notes == ()
    assert group.channels.count > 1


def test_of_symmetries_that_hold_alone_and_not_together_the_first_are_kept(monkeypatch):
    from flatmeter.symmetry import verify

    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    true_change = verify.Evaluator.change

    def change(self, factors, eps_factor=1.0):
        both = {"0.weight", "4.weight"} <= set(factors)
        return 1.0 if both else true_change(self, factors, eps_factor)

    monkeypatch.setattr(verify.Evaluator, "change", change)
    group = group_of(net.double(), torch.randn(3, 4).double())
    assert group.dim == 1
    assert len(group.notes) >= 1


def test_an_operator_without_a_rule_is_named():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.pair = nn.Linear(4, 5), nn.Bilinear(5, 5, 3)

        def forward(self, x):
            h = torch.relu(self.a(x))
            return self.pair(h, h)

    group = group_of(Pairs(), torch.randn(3, 4))
    assert group.unknown_operators
    assert any("no rule for" in note for note in group.notes)
