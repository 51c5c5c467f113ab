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


@pytest.mark.parametrize("room", [0, 2**40])
def test_data_held_on_the_gpu_and_brought_batch_by_batch(room, make_risk, problem, monkeypatch):
    from flatmeter.risk import feed

    monkeypatch.setattr(feed, "free_memory", lambda device: room)
    risk = make_risk(*problem, device="cuda", batch_size=5)
    whole = make_risk(*problem)
    for _ in range(3):
        assert risk.value() == pytest.approx(whole.value(), rel=1e-10)
    torch.testing.assert_close(risk.gradient().cpu(), whole.gradient(), rtol=1e-8, atol=1e-11)


def test_the_plan_of_memory_holds(make_risk, problem):
    net, x, y = problem
    risk = make_risk(net, x.repeat(50, 1, 1, 1), y.repeat(50), device="cuda")
    V = torch.randn(1, risk.space.dim, dtype=torch.float64, device="cuda")
    planned = risk.product_bytes + 11 * V.nbytes
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    HessianOperator(risk).matmat(V)
    assert torch.cuda.max_memory_allocated() - before < 1.2 * planned
