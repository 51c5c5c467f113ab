"""Every strategy gives the dense matrix's products; they differ in speed only."""

from __future__ import annotations

import pytest
import torch
from product_nets import Gated
from torch import nn

from flatmeter.curvature.products import GaussNewtonOperator, HessianOperator
from flatmeter.strategy import STRATEGIES


class Attention(nn.Module):
    """A transformer's block, with an embedding below and a mean above."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation="gelu")
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.block(self.words(x)).mean(1))


def nets():
    torch.manual_seed(0)
    y = torch.tensor([0, 1, 2, 1, 0, 2, 1])
    conv = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    normed = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3)
    )
    return {
        "gated": (Gated(), torch.randn(7, 4), y),
        "conv": (conv, torch.randn(7, 2, 6, 6), y),
        "attention": (Attention(), torch.randint(0, 9, (7, 5)), y),
        "weight-norm": (normed, torch.randn(7, 4), y),
    }


NETS = nets()
CASES = [("gated", "eval"), ("conv", "eval"), ("conv", "batch"), ("attention", "eval")]


@pytest.mark.parametrize(("name", "bn"), [*CASES, ("weight-norm", "eval")])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("keep", [True, False])
def test_against_the_dense_matrices(strategy, name, bn, keep, make_risk, dense):
    more = {} if keep else {"batch_size": 3}
    risk = make_risk(*NETS[name], bn=bn, bn_batch=4, weight_decay=0.1, strategy=strategy, **more)
    assert risk.graphs_fit == keep
    V = torch.randn(3, risk.space.dim, dtype=torch.float64)
    shift = 0.1 * torch.eye(risk.space.dim, dtype=torch.float64)
    matrices = dense.hessian(risk), dense.gauss_newton(risk) + shift
    for kind, matrix in zip((HessianOperator, GaussNewtonOperator), matrices, strict=True):
        operator = kind(risk)
        for rows in (V, V[:1]):
            images = operator.matmat(rows)
            torch.testing.assert_close(images, rows @ matrix, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_losses(strategy, loss, make_risk, dense):
    net, x, _ = NETS["gated"]
    risk = make_risk(net, x, torch.rand(7, 3), loss=loss, strategy=strategy)
    V = torch.randn(2, risk.space.dim, dtype=torch.float64)
    torch.testing.assert_close(HessianOperator(risk).matmat(V), V @ dense.hessian(risk))
    torch.testing.assert_close(GaussNewtonOperator(risk).matmat(V), V @ dense.gauss_newton(risk))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loss_without_curvature(strategy, make_risk):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.w

    def linear(z, y):
        return (z * y).mean()

    from flatmeter.risk.custom_loss import FunctionLoss

    risk = make_risk(
        Plain(),
        torch.randn(4, 3),
        torch.randn(4, 3),
        loss=FunctionLoss(linear, "linear"),
        strategy=strategy,
    )
    V = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(HessianOperator(risk).matmat(V), torch.zeros_like(V))


@pytest.mark.parametrize("strategy", ["reverse-batched", "forward-batched"])
def test_fewer_vectors_are_taken_at_once_where_memory_runs_out(
    strategy, make_risk, dense, monkeypatch
):
    risk = make_risk(*NETS["gated"], strategy=strategy)
    operator = HessianOperator(risk)
    operator.matmat(torch.ones(2, risk.space.dim))  # after which it is known to be right
    operator = HessianOperator(risk)
    inner, seen = operator.curvature.linearise, []

    def scarce(self, mode, *more):
        apply = inner(mode, *more)

        def limited(V, keep):
            seen.append((len(V), keep))
            if len(V) > 3 or keep:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
            return apply(V, keep)

        return limited

    monkeypatch.setattr(type(operator.curvature), "linearise", scarce)
    V = torch.randn(8, risk.space.dim, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="can't allocate"):
        # Two at once, no graph kept, and the graph is still needed for the next two.
        operator.matmat(V)
    assert [k for k, _ in seen] == [8, 4, 2, 1, 1]
    torch.testing.assert_close(operator.matmat(V[:1]), V[:1] @ dense.hessian(risk))


def test_other_errors_are_not_taken_for_a_lack_of_memory(make_risk, monkeypatch):
    risk = make_risk(*NETS["gated"], strategy="reverse")
    operator = HessianOperator(risk)

    def broken(self, *arguments):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(type(operator.curvature), "linearise", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        operator.matmat(torch.ones(1, risk.space.dim))
