import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flatmeter.errors import NotApplicable
from flatmeter.measures import spherical_sharpness
from flatmeter.measures.context import Context
from flatmeter.measures.invariant_blocks import invariant_blocks
from flatmeter.measures.spherical_sharpness import SphericalSharpness
from flatmeter.risk.custom_loss import FunctionLoss


class Landscape(nn.Module):
    """A loss that is a function of the weights alone."""

    def __init__(self, weights, function):
        super().__init__()
        self.w = nn.Parameter(weights.double())
        self.function = function

    def forward(self, x):
        return self.function(self.w) * torch.ones(len(x), 1, dtype=self.w.dtype)


def blocks_of(*sizes):
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return tuple(
        SimpleNamespace(name=str(i), indices=torch.arange(a, b))
        for i, (a, b) in enumerate(pairwise(ends))
    )


@pytest.fixture
def measured(make_risk, monkeypatch):
    """Measure a risk with blocks given by hand."""

    def run(risk, blocks, settings=None, **context):
        monkeypatch.setattr(
            spherical_sharpness, "invariant_blocks", lambda context, title: (blocks, ())
        )
        ready = Context(risk, bn=risk.bn, group=lambda: None, rtol=1e-10, **context)
        found = SphericalSharpness(**(settings or {})).compute(ready)
        return found, {name: e.value for name, e in found.quantities.items()}

    return run


@pytest.fixture
def on_landscape(make_risk, measured):
    def run(weights, function, blocks=None, **options):
        loss = FunctionLoss(lambda z, y: z[:, 0], "landscape")
        net = Landscape(weights, function)
        risk = make_risk(net, torch.zeros(2, 1), torch.zeros(2), loss=loss)
        return measured(risk, blocks or blocks_of(len(weights)), **options)

    return run


def symmetric(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return matrix + matrix.T


@pytest.mark.parametrize("radius", [0.1, 1.0, 30.0])
def test_rayleigh_quotient(on_landscape, radius):
    matrix = symmetric(5)
    a, vectors = torch.linalg.eigh(matrix)
    quotient = lambda w: w @ matrix @ w / (w @ w)  # noqa: E731
    _, bottom = on_landscape(radius * vectors[:, 0], quotient)
    expected = 2 * float(a[-1] - a[0])
    assert [bottom["block"], bottom["global"], bottom["tangent"]] == pytest.approx([expected] * 3)
    assert bottom["raw"] == pytest.approx(expected / radius**2)

    w = torch.ones(5, dtype=torch.float64) / 5**0.5
    loss = quotient(w)
    g = 2 * (matrix @ w - loss * w)
    hessian = 2 * (matrix - loss * torch.eye(5)) - 2 * (torch.outer(w, g) + torch.outer(g, w))
    _, general = on_landscape(radius * w, quotient)
    assert general["global"] == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]))
    project = torch.eye(5) - torch.outer(w, w)
    tangent = torch.linalg.eigvalsh(project @ hessian @ project)[-1]
    assert general["tangent"] == pytest.approx(float(tangent))


@pytest.mark.parametrize("psi", [0.1, 0.8])
def test_cosine_of_the_angle(on_landscape, psi):
    a, m = 1.3, 3
    function = lambda w: a * (1 - torch.cos(m * torch.atan2(w[1], w[0])))  # noqa: E731
    w = 2.5 * torch.tensor([math.cos(psi), math.sin(psi)], dtype=torch.float64)
    first, second = a * m * math.sin(m * psi), a * m * m * math.cos(m * psi)
    _, found = on_landscape(w, function)
    assert found["global"] == pytest.approx(0.5 * (second + math.hypot(second, 2 * first)))
    # Orthogonal to the sphere P H P is zero, which counts where the rest is negative.
    assert found["tangent"] == pytest.approx(max(second, 0.0), abs=1e-9)


def test_linear_regression_with_batch_norm(make_risk, measured):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 20, generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    y = x @ torch.randn(20, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(20, 1, bias=False), nn.BatchNorm1d(1, eps=1e-14)).double()
    w = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    with torch.no_grad():
        net[0].weight.copy_(5.0 * w)
        net[1].weight.fill_(float(y.std(correction=0)))
    risk = make_risk(net, x, y[:, None], loss="mse", bn="batch")
    _, found = measured(risk, blocks_of(20))
    centre = torch.eye(12) - torch.outer(y, y) / (y @ y)
    # Our squared error has no factor of a half.
    top = 2 * torch.linalg.eigvalsh(x.T @ centre @ x / 12)[-1]
    assert found["global"] == pytest.approx(float(w @ w * top), rel=1e-8)
    assert found["block"] == pytest.approx(found["global"])


@pytest.fixture
def bn_risk(make_risk):
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
    layers = nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, eps=1e-16), nn.ReLU(), nn.Linear(5, 3)
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        net[0].weight *= torch.linspace(0.3, 3, 5)[:, None]

    def build(factors=None, bn="batch", **options):
        with torch.no_grad():
            net[0].weight *= torch.ones(5, 1) if factors is None else factors[:, None]
        return make_risk(net, x, y, bn=bn, **options)

    return build


def test_all_four_against_dense_matrices(bn_risk, measured, dense):
    risk, blocks = bn_risk(), blocks_of(*[6] * 5)
    _, found = measured(risk, blocks)
    hessian, w = dense.hessian(risk), risk.theta[:30]
    radii = w.reshape(5, 6).norm(dim=1).repeat_interleave(6)
    inner = hessian[:30, :30]
    project = torch.eye(30) - torch.outer(w, w) / (w @ w)
    top = lambda matrix: float(torch.linalg.eigvalsh(matrix)[-1])  # noqa: E731
    assert found["block"] == pytest.approx(top(radii[:, None] * inner * radii), rel=1e-8)
    assert found["global"] == pytest.approx(float(w @ w) * top(inner), rel=1e-8)
    assert found["tangent"] == pytest.approx(float(w @ w) * top(project @ inner @ project))
    assert found["raw"] == pytest.approx(top(hessian), rel=1e-8)


def test_block_compares_rescaled_networks_and_global_does_not(bn_risk, measured):
    blocks = blocks_of(*[6] * 5)
    _, before = measured(bn_risk(), blocks)
    _, after = measured(bn_risk(torch.tensor([100.0, 0.1, 1.0, 7.0, 0.01])), blocks)
    assert after["block"] == pytest.approx(before["block"], rel=1e-8)
    assert after["global"] > 10 * before["global"]
    _, together = measured(bn_risk(torch.full((5,), 10.0)), blocks)
    assert together["global"] == pytest.approx(after["global"], rel=1e-8)


def test_two_seeds_agree_and_weight_decay_does_not_count(bn_risk, measured):
    blocks = blocks_of(*[6] * 5)
    first, a = measured(bn_risk(), blocks, seed=0)
    _, b = measured(bn_risk(weight_decay=0.1), blocks, seed=1)
    assert a == pytest.approx(b, rel=1e-8)
    assert all(e.converged for e in first.quantities.values())


def test_self_checks_are_reported(bn_risk, measured):
    found, _ = measured(bn_risk(), blocks_of(*[6] * 5))
    assert any("self-checks" in note for note in found.notes)
    assert any("ε the loss changes" in note for note in found.notes)


def test_ratio_to_the_edge_of_stability(on_landscape):
    matrix = torch.diag(torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64))
    quotient = lambda w: w @ matrix @ w / (w @ w)  # noqa: E731
    w = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)
    found, values = on_landscape(w, quotient)
    assert "eos_ratio" not in values
    assert any("--lr" in note for note in found.notes)
    _, values = on_landscape(w, quotient, lr=0.5, training_weight_decay=0.1)
    effective = 0.5 / ((1 - 0.05) * 9)
    assert values["eos_ratio"] == pytest.approx(effective * 8 / 2)
    _, slow = on_landscape(w, quotient, lr=0.5)
    assert slow["eos_ratio"] == pytest.approx(0.5 / 9 * 8 / 2)
    _, heavy = on_landscape(w, quotient, settings={"momentum": 0.9}, lr=0.5)
    assert heavy["eos_ratio"] == pytest.approx(0.5 / 9 * 8 / 2 / 1.9)


def test_gradient_descent_with_weight_decay_hovers_at_the_edge(on_landscape):
    matrix = torch.diag(torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64))
    quotient = lambda w: w @ matrix @ w / (w @ w)  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    w, lr, decay, ratios = torch.tensor([1.0, 0.1, 0.1], dtype=torch.float64), 0.1, 1e-2, []
    for step in range(4000):
        slope = 2 * (matrix @ w - quotient(w) * w) / (w @ w)
        if step >= 3000 and step % 37 == 0:
            _, found = on_landscape(w, quotient, lr=lr, training_weight_decay=decay)
            ratios.append(found["eos_ratio"])
        noise = 1e-6 * torch.randn(3, generator=generator, dtype=torch.float64)
        w = (1 - lr * decay) * w - lr * slope + noise
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.1)


def test_stored_statistics_are_refused_in_words(bn_risk):
    context = Context(bn_risk(bn="eval"), bn="eval", group=lambda: None)
    with pytest.raises(NotApplicable, match="stored statistics"):
        invariant_blocks(context, "Spherical sharpness")
