import math

import pytest
import torch
from torch import nn

from flatmeter.estimate import Why
from flatmeter.measures.adaptive_sharpness import AdaptiveSharpness
from flatmeter.measures.ball import Ball
from flatmeter.measures.context import Context


class Quadratic:
    """L = ½ wᵀ A w + b·w."""

    dtype = torch.float64

    def __init__(self, matrix, slope):
        self.matrix, self.slope = matrix, slope

    def value_tensor(self, w):
        return 0.5 * w @ self.matrix @ w + self.slope @ w

    def value_and_gradient_tensors(self, w):
        return self.value_tensor(w), self.matrix @ w + self.slope


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def net(seed=0):
    torch.manual_seed(seed)
    layers = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    return nn.Sequential(*layers).double()


@pytest.fixture
def measure(make_risk):
    torch.manual_seed(1)
    x, y = torch.randn(40, 4), torch.randint(0, 3, (40,))

    def run(network, context=None, dtype=torch.float64, weight_decay=0.0, **settings):
        risk = make_risk(network, x, y, dtype=dtype, weight_decay=weight_decay)
        ready = Context(risk, bn=None, group=lambda: None, **(context or {}))
        return AdaptiveSharpness(**settings).compute(ready)

    return run


def test_worst_case_of_a_quadratic_in_both_norms():
    matrix = torch.diag(vector(1.0, 8.0, 3.0))
    scale = vector(1.0, 0.5, 2.0)
    theta = torch.zeros(3, dtype=torch.float64)
    risk = Quadratic(matrix, vector(0.0, 0.0, 0.0))
    ball = Ball(risk, theta, scale, 0.3, "l2")
    start = ball.extreme(vector(1.0, 1.0, 1.0))
    top = max(1.0, 8 * 0.25, 3 * 4.0)
    assert ball.climb(start, steps=50, rtol=1e-10).value == pytest.approx(0.5 * 0.09 * top)
    cube = Ball(risk, theta, scale, 0.3, "linf")
    everywhere = 0.5 * 0.09 * (1.0 + 8 * 0.25 + 3 * 4.0)
    assert cube.climb(cube.extreme(vector(1.0, 1.0, 1.0)), steps=50, rtol=1e-10).value == (
        pytest.approx(everywhere)
    )


def test_worst_case_looks_on_the_other_side():
    # With a slope, the two ends of the sharpest axis differ; the start is on the lower side.
    risk = Quadratic(torch.diag(vector(4.0, 1.0)), vector(-0.05, 0.0))
    theta, one = torch.zeros(2, dtype=torch.float64), vector(1.0, 1.0)
    ball = Ball(risk, theta, one, 1.0, "l2")
    best = ball.climb(ball.extreme(vector(1.0, 0.3)), steps=50, rtol=1e-10)
    assert best.value == pytest.approx(2.05)


def test_average_is_the_scaled_trace_for_small_radii(measure, make_risk, dense):
    network = net()
    found = measure(network, rho_average=1e-3, rtol=0.05, samples=2000)
    torch.manual_seed(1)
    risk = make_risk(network, torch.randn(40, 4), torch.randint(0, 3, (40,)))
    trace = float((dense.hessian(risk).diagonal() * risk.theta.square()).sum())
    average = found.quantities["average"]
    assert average.why is Why.INTERVAL
    assert abs(average.value - 0.5e-6 * trace) < 4 * average.stderr
    assert average.stderr < 0.03 * average.value


def test_worst_is_at_least_the_quadratic_bound_of_a_dense_eigenvector(measure, make_risk, dense):
    network = net()
    found = measure(network, rho=0.5).quantities["worst"]
    torch.manual_seed(1)
    risk = make_risk(network, torch.randn(40, 4), torch.randint(0, 3, (40,)))
    c = risk.theta.abs()
    hessian = c[:, None] * dense.hessian(risk) * c
    top = torch.linalg.eigh(hessian).eigenvectors[:, -1]
    rises = [risk.value(risk.theta + s * 0.5 * c * top) - risk.value() for s in (1, -1)]
    assert found.value >= max(rises)
    assert found.converged
    assert found.why is Why.LOWER_BOUND


def values(measurement):
    return [measurement.quantities[q].value for q in ("average", "worst")]


def test_same_draws_whatever_the_batch_and_the_budget(measure):
    few = measure(net(), samples=16, rtol=1e-6)
    more = measure(net(), samples=32, rtol=1e-6)
    assert more.quantities["average"].history[13] == few.quantities["average"].value
    assert not few.quantities["average"].converged


def test_weight_decay_does_not_count(measure):
    plain = values(measure(net(), samples=16))
    assert values(measure(net(), samples=16, weight_decay=0.3)) == plain


def test_float32_agrees_and_says_when_it_cannot(measure):
    single = values(measure(net(), samples=16, dtype=torch.float32))
    assert single == pytest.approx(values(measure(net(), samples=16)), rel=1e-3)
    tiny = measure(net(), samples=16, rho=1e-7, dtype=torch.float32)
    assert tiny.quantities["worst"].why is Why.PRECISION
    assert any("float32" in note for note in tiny.notes)


def test_a_point_without_gradient_and_with_zero_weights(measure):
    network = net()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    found = measure(network, samples=16)
    assert all(math.isfinite(value) for value in values(found))
    assert values(found) == [0.0, 0.0]
