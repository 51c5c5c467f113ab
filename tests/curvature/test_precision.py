"""Rounding in products, against a dense float64 Hessian."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.curvature.products import GaussNewtonOperator, HessianOperator
from flatmeter.spectral.operator import rounding


def deep(depth):
    """Batch-norm over a few samples, layer after layer, magnifies rounding."""
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6, eps=1e-9), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(6, 3))


def risks(make_risk, net, n, **options):
    torch.manual_seed(1)
    x, y = torch.randn(n, 6), torch.arange(n) % 3
    return [make_risk(net, x, y, dtype=d, **options) for d in (torch.float32, torch.float64)]


@pytest.mark.parametrize("depth", [1, 12, 24])
def test_measured_noise_covers_the_error_against_float64(make_risk, dense, depth):
    torch.manual_seed(0)
    coarse, fine = risks(make_risk, deep(depth), 6, bn="batch")
    true = dense.hessian(fine)
    coarse_op = HessianOperator(coarse)
    V = torch.linalg.eigh(true)[1][:, [0, -1, -2]].T
    error = (coarse_op.matmat(V.float()).double() - V @ true).norm(dim=1).max()
    radius = torch.linalg.eigvalsh(true).abs().max()
    assert float(error / radius) <= 3 * coarse_op.noise
    if depth == 24:
        assert coarse_op.noise > 2 * rounding(torch.float32)


def test_noise_of_a_small_network_is_the_least_there_is(make_risk):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    coarse, fine = risks(make_risk, net, 30)
    for kind in (HessianOperator, GaussNewtonOperator):
        assert kind(coarse).noise == rounding(torch.float32)
        assert kind(fine).noise == rounding(torch.float64)


def test_measured_once_counted_and_whatever_the_batch_size(make_risk):
    torch.manual_seed(0)
    net = deep(24).eval()
    first, second = (risks(make_risk, net, 100, batch_size=b)[0] for b in (7, 100))
    before = first.cost.gradient_equivalents
    noise = HessianOperator(first).noise
    spent = first.cost.gradient_equivalents
    assert before < spent
    assert HessianOperator(first.without_weight_decay()).noise == noise
    assert first.cost.gradient_equivalents == spent
    assert HessianOperator(second).noise == pytest.approx(noise, rel=0.5)


def test_samples_that_do_not_count_give_no_noise(make_risk):
    net = nn.Linear(6, 3)
    y = torch.cat([torch.full((64,), -100), torch.zeros(6, dtype=torch.long)])
    risk = make_risk(net, torch.randn(70, 6), y, dtype=torch.float32)
    assert HessianOperator(risk).noise == rounding(torch.float32)
