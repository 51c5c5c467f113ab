"""The network in bfloat16, everything else in float32; the error is measured and told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import flatmeter
from flatmeter.curvature.ghost import eligible
from flatmeter.curvature.products import HessianOperator


@pytest.fixture
def problem():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
    )
    return net, torch.randn(64, 1, 8, 8), torch.arange(64) % 4


def risks(make_risk, problem):
    single = {"dtype": torch.float32}
    return (
        make_risk(*problem),
        make_risk(*problem, **single),
        make_risk(*problem, **single, forward_dtype=torch.bfloat16),
    )


def test_the_network_is_in_bfloat16_and_what_is_made_of_it_is_not(make_risk, problem):
    _, _, lower = risks(make_risk, problem)
    seen = []
    lower.module[0].register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    point = lower.theta.clone().requires_grad_()
    z = lower.outputs(point, lower.example_inputs(4))
    assert (seen, z.dtype) == ([torch.bfloat16], torch.float32)
    assert torch.autograd.grad(z.sum(), point)[0].dtype == torch.float32


def test_products_are_off_by_what_is_told(make_risk, problem):
    exact, single, lower = risks(make_risk, problem)
    V = torch.randn(1, exact.space.dim, dtype=torch.float64)
    V = HessianOperator(exact).matmat(V)
    true = HessianOperator(exact).matmat(V)
    errors = [
        float((HessianOperator(r).matmat(V).double() - true).norm() / true.norm())
        for r in (single, lower)
    ]
    assert errors[0] < HessianOperator(single).noise < 1e-4
    assert 1e-4 < errors[1] < HessianOperator(lower).noise < 0.1


def test_the_same_tensors_have_exact_traces(make_risk, problem):
    _, single, lower = risks(make_risk, problem)
    assert eligible(lower) == eligible(single)
    assert eligible(lower).names


@pytest.mark.parametrize("name", ["hessian_trace", "minimum_sharpness", "gradient_norm"])
def test_measures_come_close_and_say_how_close(name, problem):
    net, x, y = problem
    rows = [
        flatmeter.measure(net, name, data=(x, y), dtype=dtype).rows[0]
        for dtype in ("float64", "float32", "bfloat16")
    ]
    exact, single, lower = rows
    assert lower.dtype == "bfloat16"
    assert lower.key != single.key
    assert exact.rounding < single.rounding < 1e-4 < lower.rounding < 0.1
    assert single.value == pytest.approx(exact.value, rel=1e-4)
    assert lower.value == pytest.approx(exact.value, rel=3 * lower.rounding)
    assert lower.value != single.value


def test_no_value_claims_to_be_closer_than_rounding_lets_it(problem):
    net, x, y = problem
    row = flatmeter.measure(
        net, "hessian_eigenvalues", data=(x, y), dtype="bfloat16", rtol=1e-4
    ).rows[0]
    assert row.status == "unconverged"
    assert "rounding" in row.why
