"""Minimum sharpness: oracles, dense traces with a general optimiser, invariance, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from known_nets import KNOWN
from scipy.optimize import minimize as scipy_minimize
from torch import nn

from flatmeter.errors import NotApplicable
from flatmeter.measures.context import Context
from flatmeter.measures.minimum_sharpness import MinimumSharpness
from flatmeter.symmetry.find import find_group
from flatmeter.symmetry.minimise import minimise


def measure(risk, **settings):
    group = find_group(risk.module, risk.example_inputs(), risk.space.names)
    context = Context(risk=risk, bn=risk.bn, group=lambda: group)
    return MinimumSharpness(**settings).compute(context)


def oracle(bias):
    """The 2-2-2 ReLU net, its values cast to float32 first."""
    net = nn.Sequential(nn.Linear(2, 2, bias=bias), nn.ReLU(), nn.Linear(2, 2, bias=bias))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1, 0.5], [-0.3, 0.8]]))
        net[2].weight.copy_(torch.tensor([[1, -1], [0.5, 2]]))
        if bias:
            net[0].bias.copy_(torch.tensor([0.1, -0.2]))
            net[2].bias.copy_(torch.tensor([0.0, 0.3]))
    return net, torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("bias", "value", "alpha", "traces"),
    [
        (False, 1.491043635297, 1.505555098218, [1.689871436616, 0.328902405560]),
        (
            True,
            2.436977475524,
            1.659837090306,
            [2.238285532392, 0.858493613284, 0.407988924563, 0.188910222746],
        ),
    ],
)
def test_oracle(bias, value, alpha, traces, make_risk):
    found = measure(make_risk(*oracle(bias)))
    assert found.headline.value == pytest.approx(value, rel=1e-9)
    assert found.headline.exact
    by_quantity = {(p.scope, p.quantity): p.estimate.value for p in found.parts}
    ours = [v for (_, q), v in by_quantity.items() if q == "trace"]
    assert ours == pytest.approx(traces, rel=1e-9)
    assert np.exp(by_quantity["0.weight", "log_scale"]) == pytest.approx(alpha, rel=1e-9)
    assert found.notes == ()


def test_the_bias_only_term_is_a_constant(make_risk):
    net, x, y = oracle(True)
    risk = make_risk(net, x, y)
    p = torch.softmax(risk.outputs(risk.theta, x.double()), 1)
    last = measure(risk).parts[-2]
    assert last.scope == "2.bias"
    assert last.estimate.value == pytest.approx(float((1 - p.square().sum(1)).mean()), rel=1e-12)


def test_a_product_of_two_numbers(make_risk):
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(3.0)
        net[2].weight.fill_(-0.25)
    x = torch.tensor([[2.0]])
    found = measure(make_risk(net, x, torch.tensor([[5.0]]), loss="mse"))
    # mse is twice ½ (z − y)².
    assert found.headline.value == pytest.approx(2 * 2 * 0.75 * 4.0, rel=1e-12)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1, bias=False)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        h = F.relu(self.norm(self.stem(x)), inplace=True)
        h = h + self.b(F.relu(self.a(h)))
        return self.head(h.mean((2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(6, 6), nn.Linear(6, 4, bias=False)

    def forward(self, x):
        h = F.relu(self.a(x.flatten(1)[:, :6]))
        return self.head(F.relu(F.linear(h, self.a.weight)))


def nets():
    torch.manual_seed(0)
    x, y = torch.randn(9, 1, 6, 6), torch.arange(9) % 4
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 6), nn.ReLU(), nn.Linear(6, 5), nn.LeakyReLU(), nn.Linear(5, 4)
    )
    gelu = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 6), nn.GELU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)
    )
    grouped = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 4),
    )
    return {
        "mlp": (mlp, x, y),
        "residual": (Residual(), x, y),
        "gelu": (gelu, x, y),
        "grouped": (grouped, x, y),
        "tied": (Tied(), x, y),
    }


NETS = nets()


@pytest.mark.parametrize("name", ["mlp", "residual", "gelu", "grouped"])
def test_against_dense_traces_and_a_general_optimiser(name, make_risk, dense):
    risk = make_risk(*NETS[name])
    group = find_group(risk.module, risk.example_inputs(), risk.space.names)
    diagonal = dense.gauss_newton(risk).diagonal()
    T = np.array([float(p.sum()) for p in diagonal.split(risk.space.sizes)])
    E = group.basis
    reference = scipy_minimize(
        lambda u: np.log(np.sum(T * np.exp(-2 * E @ u))), np.zeros(E.shape[1]), tol=1e-13
    )
    assert E.shape[1] > 0
    assert measure(risk).headline.value == pytest.approx(np.exp(reference.fun), rel=1e-8)


def test_a_tied_weight_does_not_break_the_invariance(make_risk):
    risk = make_risk(*NETS["tied"])
    group = find_group(risk.module, risk.example_inputs(), risk.space.names)
    assert group.dim > 0
    before = measure(risk).headline
    assert not before.exact
    risk.theta = group.act(
        group.random(torch.Generator().manual_seed(0), 3.0), risk.theta, risk.space
    )
    assert measure(risk).headline.value == pytest.approx(before.value, rel=1e-10)


class SilentGate(nn.Module):
    """Two hidden units lead nowhere, before factors that only tensors can scale against."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(4, 3)
        self.a, self.b = nn.Linear(5, 4), nn.Linear(5, 4)
        for layer in (self.a, self.b):
            nn.init.zeros_(layer.weight[:, :2])

    def forward(self, x):
        h = F.relu(self.first(x))
        return self.head(self.a(h) * self.b(h))


@pytest.mark.parametrize(
    "name", ["residual", "gated unit", "attention", "swiglu", "post-norm", "silent gate"]
)
def test_neuron_wise_against_all_scales_at_once(name, make_risk, dense):
    torch.manual_seed(0)
    silent = name == "silent gate"
    net = SilentGate().double() if silent else KNOWN[name].build()
    x = torch.randn(30, *((4,) if silent else KNOWN[name].shape)).double()
    risk = make_risk(net, x, torch.randn(net(x).shape).double(), loss="mse")
    group = find_group(risk.module, risk.example_inputs(), risk.space.names)
    one = torch.eye(group.channels.count, dtype=torch.float64)[1:]
    channels = [group.channels.factors(s).log()[:, None] for s in one]
    E = torch.cat([*channels, risk.space.spread(torch.from_numpy(group.basis))], 1)
    expected = minimise(dense.gauss_newton(risk).diagonal().numpy(), E.numpy())
    found = measure(risk, granularity="neuron")
    assert found.headline.value == pytest.approx(expected.value, rel=1e-9)
    assert found.headline.exact
    assert any("attained = false" in note for note in found.notes) == (not expected.attained)
    assert found.headline.value < measure(risk).headline.value * (1 + 1e-12)


def test_batches_permutations_and_float32(make_risk):
    net, x, y = NETS["residual"]
    value = measure(make_risk(net, x, y)).headline.value
    assert measure(make_risk(net, x, y, batch_size=2)).headline.value == pytest.approx(
        value, rel=1e-12
    )
    order = torch.randperm(9)
    assert measure(make_risk(net, x[order], y[order])).headline.value == pytest.approx(
        value, rel=1e-12
    )
    single = measure(make_risk(net, x, y, dtype=torch.float32)).headline.value
    assert single == pytest.approx(value, rel=1e-5)
    assert measure(make_risk(net, x, 3 - y)).headline.value == pytest.approx(value, rel=1e-12)


def test_weight_decay_is_left_out(make_risk):
    net, x, y = NETS["mlp"]
    assert measure(make_risk(net, x, y, weight_decay=1.0)).headline.value == pytest.approx(
        measure(make_risk(net, x, y)).headline.value, rel=1e-12
    )


def test_a_dead_layer_is_said(make_risk):
    net, x, y = NETS["mlp"]
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.ReLU(), nn.Linear(3, 4))
    with torch.no_grad():
        net[3].weight.zero_()  # nothing depends on the layer below, which may shrink for ever
    found = measure(make_risk(net, x, y))
    p = torch.softmax(net[3].bias.detach().double(), 0)
    assert found.headline.value == pytest.approx(float(1 - p @ p), rel=1e-9)  # the last bias's
    assert any("attained = false: the terms of 3.weight" in note for note in found.notes)


def test_the_gauss_newton_value_is_labelled(make_risk):
    notes = measure(make_risk(*NETS["gelu"])).notes
    assert any("exact_hessian = false for 2 of 6" in note for note in notes)
    assert not any("exact_hessian" in note for note in measure(make_risk(*NETS["mlp"])).notes)


def test_a_negative_hessian_trace_is_refused(make_risk):
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    torch.manual_seed(3)
    x = torch.randn(5, 2)
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[2].weight.fill_(2.0)
    y = net(x).detach() - 100 * torch.sign(net(x).detach())
    risk = make_risk(net, x, y, loss="mse")
    assert measure(risk).headline.value > 0
    with pytest.raises(NotApplicable, match="negative"):
        measure(risk, curvature="hessian", max_probes=64)


class Shared(nn.Module):
    """A tensor used twice, whose trace takes probes, between two that can be rescaled."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        h = torch.relu(torch.nn.functional.linear(h, self.b.weight))
        return self.c(torch.relu(torch.nn.functional.linear(h, self.b.weight)))


def test_log_scales_from_probes_say_their_error(make_risk):
    torch.manual_seed(0)
    x, y = torch.randn(40, 4), torch.arange(40) % 3
    found = []
    net = Shared()
    for seed in range(30):
        risk = make_risk(net, x, y)
        group = find_group(risk.module, risk.example_inputs(), risk.space.names)
        context = Context(risk=risk, bn=None, group=lambda group=group: group, seed=seed, rtol=0.2)
        parts = MinimumSharpness().compute(context).parts
        (part,) = (p for p in parts if p.scope == "a.weight" and p.quantity == "log_scale")
        assert not part.estimate.exact
        assert part.estimate.stderr > 0
        found.append((part.estimate.value, part.estimate.stderr))
    values, errors = np.array(found).T
    assert 0.5 < values.std(ddof=1) / np.sqrt((errors**2).mean()) < 2


class Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.unused, self.b = nn.Linear(4, 5), nn.Linear(2, 2), nn.Linear(5, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def test_neurons_of_a_network_with_a_layer_that_is_not_used(make_risk):
    torch.manual_seed(0)
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    spare = Spare()
    plain = nn.Sequential(spare.a, nn.ReLU(), spare.b)
    values = []
    for net in (spare, plain):
        risk = make_risk(net, x, y)
        group = find_group(risk.module, risk.example_inputs(), risk.space.names)
        context = Context(risk=risk, bn=None, group=lambda group=group: group)
        measured = MinimumSharpness(granularity="neuron").compute(context)
        values.append(measured.quantities["value"].value)
    assert values[0] == pytest.approx(values[1], rel=1e-9)
