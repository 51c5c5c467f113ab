"""Products against dense matrices, and the ways in which they must not depend on batches."""

from __future__ import annotations

import pytest
import torch
from product_nets import Gated
from torch import nn

from flatmeter.curvature.products import GaussNewtonOperator, HessianOperator


def nets():
    torch.manual_seed(0)
    y = torch.tensor([0, 1, 2, 1, 0, 2, 1])
    conv = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.5)
    attention = nn.Sequential(nn.Linear(3, 4), layer, nn.Flatten(), nn.Linear(20, 3))
    return {
        "relu": (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(7, 4), y),
        "gated": (Gated(), torch.randn(7, 4), y),
        "conv": (conv, torch.randn(7, 2, 6, 6), y),
        "attention": (attention, torch.randn(7, 5, 3), y),
    }


NETS = nets()
CASES = [
    ("relu", "eval"),
    ("gated", "eval"),
    ("conv", "eval"),
    ("conv", "batch"),
    ("attention", "eval"),
]


@pytest.mark.parametrize(("name", "bn"), CASES)
@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_against_the_dense_matrix(kind, name, bn, make_risk, dense):
    risk = make_risk(*NETS[name], bn=bn, batch_size=3, bn_batch=4, weight_decay=0.1)
    build = dense.hessian if kind is HessianOperator else dense.gauss_newton
    matrix = build(risk)
    if kind is GaussNewtonOperator:
        matrix = matrix + 0.1 * torch.eye(risk.space.dim, dtype=torch.float64)
    V = torch.randn(3, risk.space.dim, dtype=torch.float64)
    torch.testing.assert_close(kind(risk).matmat(V), V @ matrix, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", list(NETS))
def test_batches_and_blocks_change_products_by_rounding_only(name, make_risk):
    V = None
    results = []
    for batch_size in (1, 3, 7):
        risk = make_risk(*NETS[name], batch_size=batch_size)
        V = torch.randn(4, risk.space.dim, dtype=torch.float64) if V is None else V
        operator = HessianOperator(risk)
        results += [operator.matmat(V), torch.cat([operator.matmat(v[None]) for v in V])]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
@pytest.mark.parametrize("name", list(NETS))
def test_kept_graphs_give_the_same_products_again_for_less(kind, name, make_risk):
    once, kept = make_risk(*NETS[name], batch_size=7), make_risk(*NETS[name])
    operator = kind(kept)
    V = torch.randn(3, kept.space.dim, dtype=torch.float64)
    expected = kind(once).matmat(V)
    assert kept.graphs_fit
    assert not once.graphs_fit
    for _ in range(2):
        torch.testing.assert_close(operator.matmat(V), expected, rtol=1e-12, atol=1e-13)
    assert kept.cost.gradient_equivalents == once.cost.gradient_equivalents + 2 * len(V)


@pytest.mark.parametrize("name", list(NETS))
def test_float32_against_float64(name, make_risk):
    exact = make_risk(*NETS[name])
    V = torch.randn(2, exact.space.dim, dtype=torch.float64)
    product = HessianOperator(exact).matmat(V)
    single = HessianOperator(make_risk(*NETS[name], dtype=torch.float32)).matmat(V)
    assert single.dtype == torch.float32
    assert (single - product).norm() < 1e-5 * product.norm()


def test_weighted_classes(make_risk, dense):
    risk = make_risk(
        *NETS["relu"], loss={"name": "cross_entropy", "weight": [1, 2, 0.5]}, batch_size=2
    )
    V = torch.eye(risk.space.dim, dtype=torch.float64)
    torch.testing.assert_close(HessianOperator(risk).matmat(V), dense.hessian(risk))


def test_another_point_and_the_cost(make_risk, dense):
    risk = make_risk(*NETS["relu"])
    elsewhere = risk.theta + 0.3
    before = risk.cost.snapshot()
    H = HessianOperator(risk, elsewhere).matmat(torch.eye(risk.space.dim, dtype=torch.float64))
    assert risk.cost.products - before.products == risk.space.dim
    risk.theta = elsewhere
    torch.testing.assert_close(H, dense.hessian(risk), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 20.0), (torch.float64, 40.0)])
def test_a_confident_network_keeps_its_curvature(dtype, scale, make_risk):
    torch.manual_seed(5)
    net = nn.Linear(4, 3).double()
    x = torch.randn(8, 4, dtype=torch.float64).float().double()
    net.weight.data = (scale * net.weight.data).float().double()
    z = net(x).detach()
    keep = (z.topk(2).values[:, 0] - z.topk(2).values[:, 1]) > scale
    x, y = x[keep], z.argmax(1)[keep]
    risk = make_risk(net, x, y, dtype=dtype)
    # The trace by the factor that is known to lose no digits.
    columns = risk.loss.factor(z[keep], y, range(2)).square().sum((0, 2))
    expected = float((columns * (x.square().sum(1) + 1)).mean())
    identity = torch.eye(risk.space.dim, dtype=dtype)
    trace = float(HessianOperator(risk).matmat(identity).double().diagonal().sum())
    assert len(y) > 0
    assert expected < (1e-7 if dtype == torch.float32 else 1e-15)
    assert trace == pytest.approx(expected, rel=1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_confident_binary_outputs_keep_their_curvature(label, make_risk):
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(24.0)
    x = torch.tensor([[1.0 if label else -1.0]])
    risk = make_risk(net, x, torch.tensor([[label]]), "bce", dtype=torch.float32)
    product = HessianOperator(risk).matmat(torch.ones(1, 1))
    assert float(product) == pytest.approx(3.775135e-11, rel=1e-5)
