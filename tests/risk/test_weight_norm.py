"""Second derivatives through weight normalisation against differences of gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from flatmeter.curvature.products import HessianOperator
from flatmeter.risk.weight_norm import has_weight_norm

LABELS = torch.tensor([0, 1, 2, 1])


def network(normalise, dim):
    with torch.no_grad():
        return nn.Sequential(normalise(nn.Linear(4, 5), dim=dim), nn.Tanh(), nn.Linear(5, 3))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("normalise", [parametrizations.weight_norm, weight_norm])
def test_hessian_products_are_those_of_the_definition(normalise, dim, make_risk):
    risk = make_risk(network(normalise, dim), torch.randn(4, 4), LABELS)
    steps = 1e-5 * torch.eye(risk.space.dim, dtype=torch.float64)
    columns = [
        (risk.gradient(risk.theta + step) - risk.gradient(risk.theta - step)) / 2e-5
        for step in steps
    ]
    products = HessianOperator(risk).matmat(steps / 1e-5)
    torch.testing.assert_close(products, torch.stack(columns), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(products, products.T, rtol=1e-9, atol=1e-12)


def test_other_networks_run_as_they_are():
    assert has_weight_norm(network(parametrizations.weight_norm, 0))
    assert not has_weight_norm(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
