"""Tensors that the outputs cannot depend on, told apart from those that merely have no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.curvature.certificate import unused_tensors
from flatmeter.curvature.layer_traces import layer_traces


class Unused(nn.Module):
    """A layer that is never called, one behind ``detach``, and a square at zero."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.never = nn.Linear(2, 2)
        self.cut = nn.Linear(2, 3)
        self.flat = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.body(x) + self.cut(x).detach() + self.flat**2 * torch.arange(3)


class Routed(nn.Module):
    """One of two experts, by the sign of the sample's first number."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x):
        picked = x[:, 0] > 0
        out = x.new_zeros(len(x), 3)
        for which, expert in ((picked, self.first), (~picked, self.second)):
            if which.any():
                out[which] = expert(x[which])
        return out


def risk_of(make_risk, net, **options):
    x = torch.cat([torch.rand(6, 2), -torch.rand(6, 2)]).double()
    return make_risk(net.double(), x, torch.arange(12) % 3, **options)


def test_what_no_output_reaches(make_risk):
    found = unused_tensors(risk_of(make_risk, Unused()))
    assert found == {"never.weight", "never.bias", "cut.weight", "cut.bias"}


def test_every_sample_is_looked_at(make_risk):
    assert not unused_tensors(risk_of(make_risk, Routed(), batch_size=3))


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_unused_tensors_take_no_probes(curvature, make_risk, dense):
    net = Unused()
    net.flat.requires_grad_(False)
    risk = risk_of(make_risk, net)
    traces = layer_traces(risk, curvature=curvature)
    assert len(traces.probes) == 0
    assert all(traces.exact_hessian.values())
    true = float(dense.hessian(risk).trace())
    assert traces.total.value == pytest.approx(true, rel=1e-10)


def test_a_tensor_without_gradient_may_have_curvature(make_risk, dense):
    risk = risk_of(make_risk, Unused())
    traces = layer_traces(risk, curvature="hessian", rtol=0.01)
    true = float(dense.hessian(risk).diagonal()[risk.space.slice("flat")].sum())
    estimate = traces.estimates["flat"]
    assert abs(true) > 0.01
    assert abs(estimate.value - true) <= 4 * estimate.stderr + 1e-9
