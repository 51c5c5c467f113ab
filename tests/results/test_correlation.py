"""Oracles: scipy on resamples drawn one by one, permutations known by hand, coverage."""

import numpy as np
import pytest
from scipy import stats

from flatmeter.results.correlation import _kendall, _spearman, correlate


def test_known_orders():
    up = correlate([1, 2, 3, 4], [10, 20, 30, 40])
    assert (up.spearman.value, up.kendall.value) == (1.0, 1.0)
    down = correlate([1, 2, 3, 4], [4, 3, 2, 1])
    assert (down.spearman.value, down.kendall.value) == (-1.0, -1.0)
    # One neighbour exchanged: 1 - 6·2 / (4·15), and (5 - 1) / 6.
    one = correlate([1, 2, 3, 4], [2, 1, 3, 4])
    assert one.spearman.value == pytest.approx(0.8)
    assert one.kendall.value == pytest.approx(4 / 6)
    # Ties: 4 pairs agree, none disagrees; of 6 pairs 5 differ in x and 5 in y.
    ties = correlate([1, 1, 2, 3], [1, 2, 3, 3])
    assert ties.kendall.value == pytest.approx(4 / 5)


def test_samples_are_those_of_scipy():
    generator = np.random.default_rng(3)
    x = generator.integers(0, 5, size=9).astype(float)
    y = generator.normal(size=9).round(1)
    counts = generator.multinomial(9, np.full(9, 1 / 9), size=40)
    spearman, kendall = _spearman(x, y, counts), _kendall(x, y, counts)
    for often, rho, tau in zip(counts, spearman, kendall, strict=True):
        a, b = np.repeat(x, often), np.repeat(y, often)
        assert rho == pytest.approx(stats.spearmanr(a, b).statistic, nan_ok=True)
        assert tau == pytest.approx(stats.kendalltau(a, b).statistic, nan_ok=True)


def test_more_pairs_than_one_block():
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(2, 300))
    tau = _kendall(x, y, np.ones((1, 300), dtype=int))
    assert tau[0] == pytest.approx(stats.kendalltau(x, y).statistic)


def test_the_seed_decides_the_interval():
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    assert correlate(x, y, seed=1) == correlate(x, y, seed=1)
    assert correlate(x, y, seed=1) != correlate(x, y, seed=2)


@pytest.mark.parametrize("n", [8, 20])
def test_intervals_cover(n, monkeypatch):
    """True values of the normal distribution: Kendall 1948; 95 % intervals of 150 data sets."""
    monkeypatch.setattr("flatmeter.results.correlation.RESAMPLES", 300)
    generator, r = np.random.default_rng(n), 0.6
    rho, tau = 6 / np.pi * np.arcsin(r / 2), 2 / np.pi * np.arcsin(r)
    hits = np.zeros(2)
    for _ in range(150):
        x = generator.normal(size=n)
        y = r * x + np.sqrt(1 - r * r) * generator.normal(size=n)
        found = correlate(x, y)
        for i, (one, true) in enumerate([(found.spearman, rho), (found.kendall, tau)]):
            hits[i] += one.low is not None and one.low <= true <= one.high
    assert np.all(hits / 150 > 0.88), hits


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 2], [1, 2], "3 checkpoints or more are needed"),
        ([], [], "3 checkpoints or more are needed"),
        ([1, 1, 1], [1, 2, 3], "undefined: the measure has the same value everywhere"),
        ([1, 2, 3], [2, 2, 2], "undefined: the column has the same value everywhere"),
    ],
)
def test_undefined(x, y, reason):
    found = correlate(x, y)
    assert (found.spearman, found.kendall, found.n) == (None, None, len(x))
    assert found.reason == reason


def test_a_perfect_order_has_no_interval():
    """Every sample of it is in perfect order too: [1, 1] would be a claim without ground."""
    found = correlate([1, 2, 3, 4, 5], [1, 2, 3, 4, 6])
    assert found.spearman.value == pytest.approx(1.0)
    assert (found.spearman.low, found.kendall.high) == (None, None)
    assert found.reason == "no interval: all samples have the same order"


def test_a_column_that_hardly_varies():
    found = correlate([1, 2, 3, 4], [0, 0, 0, 1])
    assert -1 <= found.kendall.low <= found.kendall.value <= found.kendall.high <= 1
