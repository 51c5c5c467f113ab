from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.estimate import Why
from flatmeter.measures.context import Context
from flatmeter.measures.hessian_eigenvalues import HessianEigenvalues


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "relu": nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4)),
        "gelu": nn.Sequential(nn.Linear(3, 6), nn.GELU(), nn.Linear(6, 4)),
        "layer norm": nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 4)),
    }


def measured(risk, options=None, **context):
    measure = HessianEigenvalues(**(options or {}))
    return measure.compute(Context(risk=risk, bn=None, group=None, **context))


@pytest.fixture
def risk_of(make_risk):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(13, 3, generator=generator).double()
    y = torch.randint(0, 4, (13,), generator=generator)
    return lambda name, **options: make_risk(networks()[name].double(), x, y, **options)


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_ends_are_those_of_the_dense_hessian(risk_of, dense, name, weight_decay) -> None:
    risk = risk_of(name, weight_decay=weight_decay)
    true = torch.linalg.eigvalsh(dense.hessian(risk))
    found = measured(risk, rtol=1e-9).quantities
    for estimate, value in ((found["lambda_max"], true[-1]), (found["lambda_min"], true[0])):
        assert estimate.converged
        assert estimate.value == pytest.approx(float(value), rel=1e-7, abs=1e-9)
        assert abs(estimate.value - float(value)) <= estimate.residual


def test_several_at_each_end(risk_of, dense) -> None:
    risk = risk_of("gelu")
    true = torch.linalg.eigvalsh(dense.hessian(risk)).tolist()
    found = measured(risk, {"k": 4}, rtol=1e-9).quantities
    names = ["lambda_max", "lambda_max_2", "lambda_max_3", "lambda_max_4"]
    assert list(found)[:3] == ["lambda_max", "lambda_min", "lambda_max_2"]
    assert [found[n].value for n in names] == pytest.approx(true[::-1][:4], rel=1e-7)
    names = [name.replace("max", "min") for name in names]
    assert [found[n].value for n in names] == pytest.approx(true[:4], rel=1e-7, abs=1e-9)
    assert all(e.converged for e in found.values())
    few = measured(risk, {"k": 4}, max_products=3).quantities
    assert len(few) == 6
    assert not any(e.converged for e in few.values())


def test_default_tolerance_in_float32(risk_of, dense) -> None:
    found = measured(risk_of("gelu", dtype=torch.float32)).quantities
    true = torch.linalg.eigvalsh(dense.hessian(risk_of("gelu")))
    assert found["lambda_max"].value == pytest.approx(float(true[-1]), rel=1e-3)
    assert found["lambda_min"].value == pytest.approx(float(true[0]), rel=1e-3)


def test_budget_of_the_settings_and_of_the_run(risk_of) -> None:
    risk = risk_of("relu")
    found = measured(risk, {"max_products": 4}).headline
    assert (found.n, found.converged, found.why) == (4, False, Why.BUDGET)
    assert measured(risk, {"max_products": 4}, max_products=3).headline.n == 3
    before = risk.cost.products
    measured(risk, {"max_products": 4})
    assert risk.cost.products - before == 4


def test_seeds_agree(risk_of) -> None:
    one, two = (measured(risk_of("relu"), seed=seed).headline for seed in (1, 2))
    assert one.value != two.value
    assert one.value == pytest.approx(two.value, rel=1e-3)


def test_a_tolerance_that_float32_cannot_meet_is_not_called_met(risk_of, make_risk):
    exact = risk_of("gelu")
    risk = make_risk(networks()["gelu"], exact.data.inputs, exact.data.targets, dtype=torch.float32)
    found = measured(risk, rtol=1e-12).quantities
    for estimate in found.values():
        assert not estimate.converged
        assert estimate.why is Why.PRECISION
    assert all(e.converged for e in measured(exact, rtol=1e-12).quantities.values())
    assert all(e.converged for e in measured(risk).quantities.values())
