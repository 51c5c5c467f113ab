"""On a GPU the numbers are those of the CPU, and memory running out is retreated from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.curvature.layer_traces import layer_traces
from flatmeter.curvature.products import HessianOperator
from flatmeter.measures.registry import available

pytestmark = pytest.mark.gpu


@pytest.fixture
def problem():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
    )
    return net, torch.randn(12, 1, 8, 8), torch.arange(12) % 4


def test_products_and_traces(make_risk, problem):
    cpu, gpu = (make_risk(*problem, device=d) for d in ("cpu", "cuda"))
    V = torch.randn(3, cpu.space.dim, dtype=torch.float64)
    products = HessianOperator(gpu).matmat(V.cuda()).cpu()
    torch.testing.assert_close(products, HessianOperator(cpu).matmat(V), rtol=1e-8, atol=1e-11)
    assert layer_traces(gpu).total.value == pytest.approx(layer_traces(cpu).total.value, rel=1e-8)


@pytest.mark.parametrize("name", list(available()))
def test_every_measure(name, problem):
    import flatmeter

    net, x, y = problem
    cpu, gpu = (
        flatmeter.measure(net, name, data=(x, y), device=d, dtype="float64")
        for d in ("cpu", "cuda")
    )
    assert gpu.value(name) == pytest.approx(cpu.value(name), rel=1e-4)
