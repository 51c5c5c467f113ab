from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flatmeter.measures.context import Context
from flatmeter.measures.hessian_density import HessianDensity
from flatmeter.plan import choose


@pytest.fixture
def risk_of(make_risk):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 5, generator=generator).double()
    y = torch.randint(0, 4, (40,), generator=generator)

    def build(**options):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Linear(16, 4)).double()
        return make_risk(net, x, y, **options)

    return build


def measured(risk, options=None, **context):
    measure = HessianDensity(**(options or {}))
    return measure.compute(Context(risk=risk, bn=None, group=None, **context))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_quantities_hold_those_of_the_dense_hessian(risk_of, dense, weight_decay) -> None:
    risk = risk_of(weight_decay=weight_decay)
    true = torch.linalg.eigvalsh(dense.hessian(risk)).numpy()
    t = 1e-3 * np.abs(true).max()
    wanted = {
        "frobenius_norm": np.linalg.norm(true),
        "effective_rank": true.sum() ** 2 / np.square(true).sum(),
        "negative_share": np.mean(true < -t),
        "positive_share": np.mean(true >= t),
    }
    found = measured(risk).quantities
    assert tuple(found) == HessianDensity.quantities
    for name, value in wanted.items():
        low, high = found[name].interval(0.999)
        assert low <= value <= high, name
    assert found["frobenius_norm"].value == pytest.approx(wanted["frobenius_norm"], rel=3e-2)


def test_the_curve_is_that_of_the_dense_hessian(risk_of, dense) -> None:
    risk = risk_of()
    true = torch.linalg.eigvalsh(dense.hessian(risk)).numpy()
    state = measured(risk).state
    x = (state["grid"] - true[:, None]) / state["width"]
    exact = np.exp(-(x**2) / 2).mean(0) / (np.sqrt(2 * np.pi) * state["width"])
    assert np.abs(state["density"] - exact).max() <= 0.1 * exact.max()
    slack = 1e-5 * exact.max()
    below, above = state["density_low"] - slack <= exact, exact <= state["density_high"] + slack
    assert np.mean(below & above) > 0.9
    assert np.trapezoid(state["density"], state["grid"]) == pytest.approx(1.0, abs=1e-2)
    assert state["parameters"] == len(true) == 164
    outliers = state["outliers"]
    assert len(outliers) >= 5
    nearest = np.abs(true - outliers[:, None]).min(1)
    assert nearest.max() <= 1e-5 * np.abs(true).max()


def test_cost_budget_and_options(risk_of) -> None:
    risk = risk_of()
    before = risk.cost.products
    found = measured(risk, {"steps": 12}, rtol=0.5)
    assert risk.cost.products - before == 12 * 5
    assert found.state["nodes"].shape == (4, 12)
    before = risk.cost.products
    small = measured(risk, max_products=20, rtol=1e-9)
    assert risk.cost.products - before == 20
    assert not small.headline.converged
    wide = measured(risk, {"threshold": 0.5}).quantities
    assert wide["positive_share"].value < 0.1


def test_no_eigenvalue_of_nothing_is_positive(make_risk) -> None:
    net = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3)))
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    found = measured(make_risk(net, torch.ones(4, 3), torch.ones(4, 3), "mse")).quantities
    assert {name: e.value for name, e in found.items()} == dict.fromkeys(found, 0.0)


def test_all_leaves_it_out_and_its_name_brings_it() -> None:
    assert "hessian_density" not in {m.name for m in choose("all")}
    assert [m.name for m in choose("hessian_density")] == ["hessian_density"]
