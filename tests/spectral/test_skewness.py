from __future__ import annotations

import numpy as np
import pytest

from flatmeter.estimate import student_quantile
from flatmeter.spectral.skewness import cautious_error

#: Values are sums of these multiples of squares of normal numbers, as forms ``v^T A v`` are.
WEIGHTS = {
    "one large": [1.0],
    "power law": list(30.0 / np.arange(1, 30) ** 1.5),
    "indefinite": [6.0, -2.0, *[1 / 3] * 30],
    "flat": [1.0] * 60,
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("n", [16, 24, 48, 120])
def test_95_percent_intervals_cover_where_plain_ones_do_not(name: str, n: int) -> None:
    generator = np.random.default_rng(0)
    weights = np.array(WEIGHTS[name])
    table = np.zeros((n, 4000))
    for weight in weights:
        table += weight * generator.standard_normal(table.shape) ** 2
    errors = np.abs(table.mean(0) - weights.sum())
    covered = np.mean(errors <= student_quantile(n, 0.95) * cautious_error(table))
    assert (0.92 if n == 16 else 0.93) <= covered <= 0.97
    if name == "one large" and n <= 24:
        plain = student_quantile(n, 0.95) * table.std(0, ddof=1) / np.sqrt(n)
        assert np.mean(errors <= plain) < 0.91


def test_symmetric_values_have_the_plain_error() -> None:
    table = np.array([[-1.0, 3.0], [1.0, 3.0], [-2.0, 3.0], [2.0, 3.0], [0.0, 3.0]])
    plain = table.std(0, ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(cautious_error(table), plain)
    assert cautious_error(table)[1] == 0.0
    np.testing.assert_allclose(cautious_error(table[:2]), table[:2].std(0, ddof=1) / np.sqrt(2))


def test_the_unit_does_not_matter() -> None:
    table = np.random.default_rng(1).standard_normal((20, 3)) ** 2
    for scale in (1e-120, 1e120):
        np.testing.assert_allclose(cautious_error(scale * table), scale * cautious_error(table))
