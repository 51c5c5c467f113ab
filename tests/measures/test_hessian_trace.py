from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.data.dataset import Dataset
from flatmeter.measures.context import Context
from flatmeter.measures.hessian_trace import HessianTrace
from flatmeter.risk.custom_loss import load_loss
from flatmeter.risk.empirical import EmpiricalRisk


def measured(risk, options=None, **context):
    return HessianTrace(**(options or {})).compute(
        Context(risk=risk, bn=None, group=None, **context)
    )


@pytest.fixture
def risk_of(make_risk):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(13, 3, generator=generator).double()
    y = torch.randint(0, 4, (13,), generator=generator)

    def build(activation: nn.Module, **options):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 6), activation, nn.Linear(6, 4)).double()
        return make_risk(net, x, y, **options)

    return build


def block_traces(risk, hessian: torch.Tensor) -> dict[str, float]:
    return {n: float(hessian.diag()[risk.space.slice(n)].sum()) for n in risk.space.names}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_exact_where_piecewise_linear(risk_of, dense, weight_decay) -> None:
    risk = risk_of(nn.ReLU(), weight_decay=weight_decay)
    true = block_traces(risk, dense.hessian(risk))
    found = measured(risk)
    assert found.headline.exact
    assert found.headline.value == pytest.approx(sum(true.values()), rel=1e-10)
    for part in found.parts:
        assert part.estimate.value == pytest.approx(true[part.scope], rel=1e-10)


def test_interval_holds_the_dense_trace_elsewhere(risk_of, dense) -> None:
    risk = risk_of(nn.GELU(), weight_decay=0.1)
    true = block_traces(risk, dense.hessian(risk))
    found = measured(risk, rtol=0.05)
    assert found.headline.converged
    assert abs(found.headline.value - sum(true.values())) <= 4 * found.headline.stderr
    for part in found.parts:
        error = abs(part.estimate.value - true[part.scope])
        assert error <= 4 * part.estimate.stderr + 1e-10
    assert "probes" in found.state
    assert found.notes


def test_budget(risk_of) -> None:
    risk = risk_of(nn.GELU())
    assert len(measured(risk, {"max_probes": 20}, rtol=1e-6).state["probes"]) == 20
    assert len(measured(risk, {"max_probes": 60}, rtol=1e-6).state["probes"]) == 60 - 16
    found = measured(risk, {"max_probes": 20}, rtol=1e-6, max_products=17)
    assert len(found.state["probes"]) == 17
    assert not found.headline.converged


@pytest.mark.parametrize("method", ["auto", "hutchpp", "hutchinson"])
def test_every_method_holds_the_dense_traces(risk_of, dense, method) -> None:
    risk = risk_of(nn.Softplus(), weight_decay=0.1)
    true = block_traces(risk, dense.hessian(risk))
    for seed in range(3):
        found = measured(risk, {"method": method, "max_probes": 64}, rtol=0.02, seed=seed)
        assert abs(found.headline.value - sum(true.values())) <= 5 * found.headline.stderr
        for part in found.parts:
            error = abs(part.estimate.value - true[part.scope])
            assert error <= 5 * part.estimate.stderr + 1e-8


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Softplus()])
def test_xtrace_holds_the_dense_trace(risk_of, dense, activation) -> None:
    risk = risk_of(activation, weight_decay=0.1)
    true = float(dense.hessian(risk).trace())
    for seed in range(4):
        before = risk.cost.products
        found = measured(risk, {"method": "xtrace", "max_probes": 40}, rtol=1e-3, seed=seed)
        assert abs(found.headline.value - true) <= 4 * found.headline.stderr
        assert 0 < found.headline.stderr < 0.1 * true
        assert risk.cost.products - before == 2 * found.headline.n <= 40
        assert not found.parts
        assert "tensors have no values" in found.notes[0]
    # All of the space: exact to rounding, whatever the tolerance.
    whole = measured(risk, {"method": "xtrace"}, rtol=1e-9)
    assert whole.headline.converged
    assert whole.headline.value == pytest.approx(true, rel=1e-8)
    assert measured(risk, {"method": "xtrace"}, max_products=1).headline.n == 3


def test_xtrace_says_nothing_of_a_sample_of_the_data() -> None:
    data = Dataset(torch.randn(40, 3), torch.arange(40) % 2, "part", source_size=400)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    risk = EmpiricalRisk(net, load_loss("cross_entropy"), data)
    assert measured(risk).headline.data_stderr > 0
    assert measured(risk, {"method": "xtrace"}).headline.data_stderr is None


@pytest.fixture
def trained(make_risk):
    """Few large eigenvalues that the Gauss-Newton matrix does not explain."""
    torch.manual_seed(3)
    layers = [nn.Linear(12, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 12), nn.LayerNorm(12)]
    net = nn.Sequential(*layers, nn.Tanh(), nn.Linear(12, 4)).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 12, generator=generator).double()
    y = torch.randint(0, 4, (60,), generator=generator)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(80):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    return make_risk(net, x, y)


def test_a_sketch_makes_the_error_smaller(trained, dense) -> None:
    true = block_traces(trained, dense.hessian(trained))
    found, spent = {}, {}
    for method in ("auto", "hutchpp", "hutchinson"):
        before = trained.cost.products
        found[method] = measured(trained, {"method": method, "max_probes": 64}, rtol=1e-6)
        spent[method] = trained.cost.products - before
        assert abs(found[method].headline.value - sum(true.values())) <= (
            5 * found[method].headline.stderr
        )
        for part in found[method].parts:
            error = abs(part.estimate.value - true[part.scope])
            assert error <= 5 * part.estimate.stderr + 1e-8
    assert found["auto"].headline.value == found["hutchpp"].headline.value
    assert found["auto"].headline.stderr < 0.7 * found["hutchinson"].headline.stderr
    # Two for what is exact, and two for each direction of the sketch.
    assert spent["auto"] <= spent["hutchinson"] + 2 * 2 + 2 * 16
