from __future__ import annotations

import numpy as np
import pytest
import torch
from spectra import operator

from flatmeter.spectral.density import density
from flatmeter.spectral.operator import MatrixOperator
from flatmeter.spectral.summary import Summary, decades

SPECTRA = {
    "trained": np.concatenate(
        [np.geomspace(30.0, 3.0, 9), np.geomspace(0.5, 1e-6, 270), -np.geomspace(1e-6, 0.1, 21)]
    ),
    "flat": np.linspace(1.0, 2.0, 300),
    "indefinite": np.linspace(-1.0, 1.5, 300) ** 3,
}


def summary(eigenvalues: np.ndarray, seed: int = 0, **options) -> Summary:
    op = operator(eigenvalues, seed=seed)
    found = density(op, seed=seed, **{"max_products": 200, "rtol": 1e-9, **options})
    return Summary(found, rtol=0.01, confidence=0.95, noise=op.noise)


@pytest.mark.parametrize("name", SPECTRA)
def test_norm_and_rank_are_those_of_the_eigenvalues(name: str) -> None:
    true = SPECTRA[name]
    norm, rank = np.linalg.norm(true), true.sum() ** 2 / np.square(true).sum()
    covered = []
    for seed in range(20):
        found = summary(true, seed)
        for estimate, value in ((found.frobenius(), norm), (found.effective_rank(), rank)):
            low, high = estimate.interval(0.95)
            covered.append(low <= value <= high)
            assert abs(estimate.value - value) <= 20 * estimate.stderr + estimate.residual
    assert np.mean(covered) >= 0.85
    if name == "trained":
        assert found.frobenius().converged
        assert found.frobenius().value == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("part", [-1e-2, -1e-3, 0.0, 1e-3, 0.11, 0.6])
def test_shares_hold_the_eigenvalues_below(name: str, part: float) -> None:
    true = SPECTRA[name]
    for seed in range(5):
        found = summary(true, seed)
        x = part * found.radius
        estimate = found.share_below(x)
        low, high = estimate.interval(0.999)
        assert low - 1e-12 <= np.mean(true < x) <= high + 1e-12
        above = found.share_above(x)
        assert above.value == pytest.approx(1 - estimate.value)
        assert (above.stderr, above.residual) == (estimate.stderr, estimate.residual)


def test_a_share_that_the_rule_leaves_open_is_not_converged() -> None:
    found = summary(np.concatenate([[1.0], np.full(150, 1e-4), np.full(149, -1e-4)]), steps=4)
    assert found.share_below(-0.5).value == pytest.approx(0.0, abs=1e-6)
    estimate = summary(SPECTRA["flat"], steps=4).share_below(1.5)
    assert estimate.residual > 0.1
    assert not estimate.converged


def test_all_eigenvalues_resolved() -> None:
    found = summary(np.array([3.0, 1.0, -1.0, 0.5]))
    assert found.frobenius().value == pytest.approx(np.sqrt(11.25))
    assert found.effective_rank().value == pytest.approx(3.5**2 / 11.25)
    assert found.share_below(0.0).value == pytest.approx(0.25)
    assert found.share_below(-0.5).converged
    assert found.share_below(-0.5).stderr == 0.0


def test_a_zero_operator() -> None:
    found = Summary(
        density(MatrixOperator(torch.zeros(9, 9))), rtol=0.01, confidence=0.95, noise=0.0
    )
    assert found.frobenius().value == found.effective_rank().value == 0.0
    assert found.share_below(0.0).value == 0.0


@pytest.mark.parametrize("name", SPECTRA)
def test_counts_hold_those_of_the_eigenvalues(name: str) -> None:
    true = 1.1 * SPECTRA[name]  # none on an edge
    found = summary(true)
    edges, counts, half_widths = found.counts(decades(found.radius))
    assert edges[0] <= true.min()
    assert true.max() <= edges[-1]
    if name == "trained":
        assert len(edges) >= 8
        assert np.abs(edges).min() > 1e-4
    exact = np.histogram(true, edges)[0]
    assert counts.sum() == pytest.approx(300)
    assert np.mean(np.abs(counts - exact) <= half_widths + 1e-9) > 0.9


def test_edges_are_ones_and_threes() -> None:
    expected = [-100, -30, -10, -3, -1, 1, 3, 10, 30, 100]
    np.testing.assert_allclose(decades(42.0, depth=2), expected)
    np.testing.assert_allclose(decades(0.1, depth=1), [-0.1, -0.03, -0.01, 0.01, 0.03, 0.1])
    assert np.isfinite(decades(0.0)).all()
