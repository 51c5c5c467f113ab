import numpy as np
import pytest

from flatmeter.errors import NonFinite
from flatmeter.estimate import Why
from flatmeter.spectral.controlled_mean import controlled, controlled_mean


def draws(seed, slope, spread):
    rng = np.random.default_rng(seed)

    def draw(i):
        control = rng.standard_normal() ** 2 - 1
        return 3.0 + slope * control + spread * rng.standard_normal(), control

    return draw


def run(draw, **options):
    settings = {"rtol": 0.05, "confidence": 0.95, "max_draws": 400, "progress": lambda text: None}
    return controlled_mean(draw, **{**settings, **options})


def test_a_control_that_explains_everything_leaves_nothing():
    estimate, table = run(draws(0, slope=5.0, spread=0.0))
    assert estimate.value == pytest.approx(3.0, abs=1e-12)
    assert estimate.stderr < 1e-12
    assert estimate.n == len(table) == 16
    assert estimate.why is Why.INTERVAL


def test_a_useless_control_does_no_harm():
    table = np.array([draws(7, slope=0.0, spread=1.0)(i) for i in range(400)])
    mean, stderr = controlled(*table.T)
    plain = table[:, 0].std(ddof=1) / 20
    assert stderr == pytest.approx(plain, rel=0.05)
    assert mean == pytest.approx(table[:, 0].mean(), abs=plain)


def test_a_constant_control_is_ignored():
    mean, _ = controlled([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert mean == 2.0


def test_intervals_cover_although_the_stopping_looks_at_them():
    hits = 0
    for seed in range(400):
        estimate, _ = run(draws(seed, slope=2.0, spread=1.0), rtol=0.15)
        low, high = estimate.interval(0.95)
        hits += low <= 3.0 <= high
    assert 0.92 <= hits / 400 <= 0.985


def test_budget_and_nonfinite_values():
    estimate, table = run(draws(0, slope=0.0, spread=50.0), max_draws=20)
    assert not estimate.converged
    assert estimate.why is Why.BUDGET
    assert len(table) == 20
    with pytest.raises(NonFinite):
        run(lambda i: (float("inf"), 0.0))
