"""Block traces with a sketch against those of the dense Hessian, over many seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flatmeter.curvature import deflated_traces
from flatmeter.curvature.deflated_traces import hessian_traces

SEEDS = 24


class Mixed(nn.Module):
    """A tensor used twice, some with a Gauss-Newton trace as control, and an exact head."""

    def __init__(self):
        super().__init__()
        self.encode, self.middle = nn.Linear(4, 3), nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        h = nn.functional.linear(torch.tanh(self.encode(x)), self.encode.weight.T)
        return self.head(nn.functional.gelu(self.middle(h)))


@pytest.fixture
def risk(make_risk):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 4, generator=generator).double()
    return make_risk(Mixed(), x, torch.arange(12) % 3, weight_decay=0.1)


def true_traces(risk, dense):
    """Without the weight decay, which the traces leave out."""
    diagonal = dense.hessian(risk.without_weight_decay()).diagonal()
    return np.array([float(part.sum()) for part in diagonal.split(risk.space.sizes)])


@pytest.mark.parametrize(
    ("method", "control"), [("hutchinson", 0.0), ("hutchpp", 0.0), ("hutchpp", 1e9)]
)
def test_every_tensor_is_unbiased_and_holds_its_error(method, control, risk, dense, monkeypatch):
    # The Gauss-Newton matrix is always taken off what the sketch leaves, or never.
    monkeypatch.setattr(deflated_traces, "CONTROL", control)
    expected = true_traces(risk, dense)
    runs = [
        hessian_traces(risk, method=method, seed=seed, rtol=1e-9, max_probes=48)
        for seed in range(SEEDS)
    ]
    assert {run.kind for run in runs} == {"plain" if method == "hutchinson" else "deflated"}
    values = np.array([[e.value for e in run.estimates.values()] for run in runs])
    errors = np.array([[e.stderr for e in run.estimates.values()] for run in runs])
    totals = np.array([[run.total.value, run.total.stderr] for run in runs])
    exact = errors.max(0) == 0
    assert list(exact) == [False, False, False, False, True, True]
    np.testing.assert_allclose(values[:, exact], np.tile(expected[exact], (SEEDS, 1)), rtol=1e-9)
    off = (values - expected)[:, ~exact] / errors[:, ~exact]
    of_total = (totals[:, 0] - expected.sum()) / totals[:, 1]
    for column in (*off.T, of_total):
        assert abs(column.mean()) < 4 / SEEDS**0.5
        assert 0.5 < column.std() < 1.5
    assert not any(run.converged for run in runs)


def test_a_sketch_of_the_whole_space_is_exact(make_risk, dense):
    torch.manual_seed(0)
    risk = make_risk(
        nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)),
        torch.randn(9, 2),
        torch.arange(9) % 2,
    )
    found = hessian_traces(risk, method="hutchpp", rtol=1e-6, max_probes=60)
    np.testing.assert_allclose(found.values, true_traces(risk, dense), rtol=1e-8, atol=1e-12)
    assert found.converged
