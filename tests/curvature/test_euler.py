import copy

import pytest
import torch
from torch import nn

from flatmeter.curvature.euler import euler_ratios, idle_tensors, with_scaled_eps


@pytest.fixture
def risk(make_risk):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    with torch.no_grad():
        # A row with so little variance that the trained ε decides over it.
        net[0].weight[0] *= 1e-3
    return make_risk(net, torch.randn(40, 5), torch.randint(0, 3, (40,)), bn="batch")


def row(i):
    return torch.arange(5 * i, 5 * i + 5)


def test_tells_invariant_rows_from_others_once_epsilon_is_out_of_the_way(risk):
    head = risk.space.slice("3.weight").start
    others = [head + torch.arange(4), head + torch.arange(12)]
    ratios = euler_ratios(with_scaled_eps(risk), [row(0), row(2), *others])
    assert float(ratios[:2].max()) < 1e-5
    assert float(ratios[2:].min()) > 1e-2


def test_the_trained_epsilon_hides_an_invariant_row(risk):
    ratios = euler_ratios(risk, [row(0), row(2)])
    assert float(ratios[0]) > 0.1
    assert float(ratios[1]) < 0.01


def test_saturated_loss_does_not_hide_anything(risk):
    sure = copy.copy(risk)
    sure.theta = risk.theta.clone()
    sure.theta[risk.space.slice("3.weight")] *= 200.0
    head = risk.space.slice("3.weight").start
    ratios = euler_ratios(with_scaled_eps(sure), [row(1), head + torch.arange(12)])
    assert float(ratios[0]) < 1e-6
    assert float(ratios[1]) > 1e-2


def test_parameters_that_change_nothing_pass(risk):
    bias = risk.space.slice("0.bias").start
    ratios = euler_ratios(with_scaled_eps(risk), [torch.tensor([bias, bias + 1])])
    assert float(ratios[0]) <= 1.0
    frozen = copy.copy(risk)
    frozen.theta = torch.zeros_like(risk.theta)
    assert float(euler_ratios(frozen, [row(0)])[0]) == 0.0


def test_the_risk_itself_keeps_its_epsilon(risk):
    loss = risk.value()
    ideal = with_scaled_eps(risk)
    assert ideal.module[1].eps == pytest.approx(1e-11)
    assert risk.module[1].eps == 1e-5
    assert risk.value() == loss
    assert ideal.value() != loss


def test_seeded(risk):
    first, again = (euler_ratios(risk, [row(0)], seed=3) for _ in range(2))
    assert torch.equal(first, again)


def test_a_tensor_is_idle_only_if_no_sample_reaches_it(make_risk):
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    net.register_parameter("unused", nn.Parameter(torch.ones(2)))
    x = torch.cat([torch.zeros(6, 4), torch.randn(2, 4)])
    late = make_risk(net, x, torch.tensor([0, 1] * 4), batch_size=2)
    never = make_risk(net, x[:6], torch.tensor([0, 1] * 3), batch_size=2)
    assert idle_tensors(late) == {"unused"}
    assert idle_tensors(never) == {"unused", "0.weight", "2.weight"}
