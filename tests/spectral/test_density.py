from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from spectra import operator, rotated
from torch import Tensor

from flatmeter.errors import NonFinite, UsageError
from flatmeter.estimate import Why
from flatmeter.spectral.density import Density, Quadrature, density
from flatmeter.spectral.operator import MatrixOperator
from flatmeter.spectral.outliers import Outliers

SPECTRA = {
    "flat": np.linspace(1.0, 2.0, 120),
    "decaying": np.geomspace(10.0, 1e-3, 120),
    "outliers": np.concatenate([[6.0, 5.0, -2.0], np.linspace(-0.2, 1.0, 117)]),
    "indefinite": np.linspace(-1.0, 1.5, 120) ** 3,
}


def smoothed(eigenvalues: np.ndarray, found: Density) -> tuple[np.ndarray, np.ndarray]:
    """The exact density and cumulative distribution at the same places and width."""
    x = (found.grid - eigenvalues[:, None]) / found.width
    heights = np.exp(-(x**2) / 2) / (np.sqrt(2 * np.pi) * found.width)
    return heights.mean(0), ndtr(x).mean(0)


def wasserstein(found: Density, eigenvalues: np.ndarray) -> float:
    """Area between the cumulative distributions of the atoms and of the eigenvalues."""
    nodes, parts = found.atoms()
    assert parts.sum() == pytest.approx(1.0)
    places = np.concatenate([nodes, eigenvalues])
    mass = np.concatenate([parts, np.full(len(eigenvalues), -1 / len(eigenvalues))])
    order = np.argsort(places)
    return float(np.abs(np.cumsum(mass[order])[:-1]) @ np.diff(places[order]))


@pytest.mark.parametrize("name", SPECTRA)
def test_wasserstein_distance_falls_with_steps_and_probes(name: str) -> None:
    eigenvalues = SPECTRA[name]
    op = operator(eigenvalues)

    def distance(steps: int, probes: int) -> float:
        found = density(op, steps=steps, rtol=1e-9, max_products=steps * (probes + 1))
        return wasserstein(found, eigenvalues) / np.ptp(eigenvalues)

    coarse, middle, fine = (distance(steps, 16) for steps in (2, 6, 18))
    assert coarse > 2 * middle > 2.5 * fine
    assert fine < 0.02
    assert np.mean([distance(18, n) for n in (2, 3)]) > distance(18, 24)


@pytest.mark.parametrize("name", SPECTRA)
def test_agrees_with_the_exact_curves(name: str) -> None:
    eigenvalues = SPECTRA[name]
    found = density(operator(eigenvalues), steps=20, rtol=0.02)
    heights, cumulative = smoothed(eigenvalues, found)
    assert found.converged
    assert found.cumulative.half_width(0.95).max() <= 0.02
    assert np.abs(found.cumulative.value - cumulative).max() <= 0.03
    assert np.abs(found.heights.value - heights).max() <= 0.15 * heights.max()
    assert np.trapezoid(found.heights.value, found.grid) == pytest.approx(1.0, abs=1e-3)
    assert found.cumulative.value[-1] == pytest.approx(1.0, abs=1e-4)
    assert found.width == pytest.approx(np.ptp(found.quadrature.nodes) / 20)
    assert len(found.outliers.values) == {"decaying": 5, "outliers": 3}.get(name, 0)


@pytest.mark.parametrize("name", ["flat", "decaying", "indefinite"])
@pytest.mark.parametrize("probes", [4, 8])
def test_bands_cover_93_to_97_percent(name: str, probes: int) -> None:
    # Every eigenvalue is a node here, so that many runs cost no product.
    eigenvalues = np.sort(SPECTRA[name])[::4]
    op = MatrixOperator(torch.zeros(30, 30))
    nothing = Outliers.none(op)
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(100):
        weights = generator.standard_normal((probes, 30)) ** 2
        weights /= weights.sum(1, keepdims=True)
        nodes = np.tile(eigenvalues, (probes, 1))
        known = Quadrature(nodes, weights, np.full(probes, 30))
        found = density(op, rtol=1e-9, max_products=30 * probes, outliers=nothing, quadrature=known)
        heights, cumulative = smoothed(eigenvalues, found)
        inside = (cumulative > 0.01) & (cumulative < 0.99)
        for curve, exact in ((found.heights, heights), (found.cumulative, cumulative)):
            low, high = curve.band()
            covered.append(((low <= exact) & (exact <= high))[inside].mean())
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("probes", [2, 5])
def test_extending_is_a_longer_run_to_the_last_bit(probes: int) -> None:
    op = MatrixOperator(rotated(SPECTRA["outliers"]).float())
    short = density(op, steps=16, rtol=1e-9, max_products=16 * (probes + 1))
    file = io.BytesIO()
    np.savez(file, **short.outliers.arrays())
    file.seek(0)
    outliers = Outliers.of_arrays(op, np.load(file))
    assert len(outliers.values) == 3
    extended = density(
        op, rtol=1e-9, max_products=160, outliers=outliers, quadrature=short.quadrature
    )
    scratch = density(op, steps=16, rtol=1e-9, max_products=160)
    assert np.array_equal(extended.quadrature.nodes, scratch.quadrature.nodes)
    assert np.array_equal(extended.heights.value, scratch.heights.value)
    assert np.array_equal(extended.cumulative.stderr, scratch.cumulative.stderr)
    assert extended.products == scratch.products == 160


def test_a_saved_run_that_suffices_costs_no_product() -> None:
    op = operator(SPECTRA["flat"])
    done = density(op, steps=10, rtol=0.1)
    op.matmat = None  # any product would fail
    again = density(op, rtol=0.1, outliers=done.outliers, quadrature=done.quadrature)
    assert np.array_equal(again.heights.value, done.heights.value)


def test_outliers_count_exactly_and_leave_the_rest_nothing_of_theirs() -> None:
    eigenvalues = np.concatenate([[60.0, 50.0, -20.0], np.linspace(-0.2, 1.0, 117)])
    found = density(operator(eigenvalues), steps=20, rtol=0.1)
    np.testing.assert_allclose(found.outliers.values, [-20.0, 50.0, 60.0], rtol=1e-6)
    assert np.abs(found.quadrature.nodes).max() <= 1.0 + 1e-6
    beyond = found.grid > 10.0
    assert found.cumulative.value[beyond][0] == pytest.approx(118 / 120, abs=1e-6)
    assert found.cumulative.half_width(0.95)[beyond].max() < 1e-8
    square = float(np.square(found.atoms()[0]) @ found.atoms()[1])
    assert square == pytest.approx(np.square(eigenvalues).mean(), rel=2e-3)


def test_few_distinct_eigenvalues_are_found_exactly() -> None:
    eigenvalues = np.repeat([3.0, 0.0, -1.0], [2, 50, 8])
    found = density(operator(eigenvalues), rtol=1e-9, max_products=240)
    assert found.outliers.products == 3
    assert (found.quadrature.products == 3).all()
    nodes = found.quadrature.nodes[:, :3]
    np.testing.assert_allclose(nodes, [[-1.0, 0.0, 3.0]] * len(nodes), atol=1e-9)
    np.testing.assert_allclose(found.quadrature.weights.sum(1), 1.0)


@pytest.mark.parametrize("matrix", [torch.zeros(7, 7), 3 * torch.eye(1), -2 * torch.eye(5)])
def test_a_single_eigenvalue(matrix: Tensor) -> None:
    found = density(MatrixOperator(matrix))
    peak = float(found.grid[found.heights.value.argmax()])
    assert peak == pytest.approx(float(matrix[0, 0]), abs=1e-5)
    assert found.converged


def test_all_eigenvalues_resolved_is_exact() -> None:
    found = density(operator([3.0, 1.0, -1.0, 0.5]))
    assert (found.converged, found.why, found.products) == (True, Why.BREAKDOWN, 4)
    np.testing.assert_allclose(found.atoms()[0], [-1.0, 0.5, 1.0, 3.0])
    assert found.cumulative.half_width(0.95).max() == 0.0


def test_budget_and_memory() -> None:
    op = operator(SPECTRA["flat"])
    found = density(op, steps=10, rtol=1e-9, max_products=69)
    assert (found.cumulative.n, found.converged, found.why) == (5, False, Why.BUDGET)
    assert found.products == 60
    small = density(op, memory_bytes=14 * 120 * 8, rtol=0.2)
    assert small.quadrature.nodes.shape[1] == 7


def test_errors_and_stopping_by_the_caller() -> None:
    with pytest.raises(NonFinite):
        density(MatrixOperator(torch.full((3, 3), float("inf"))))
    with pytest.raises(UsageError):
        density(MatrixOperator(torch.eye(70)), max_products=119)
    for first, said in ((1, "outermost eigenvalues, 1 products"), (71, "probe 2, 1 products")):
        seen: list[str] = []

        def stop(text: str, seen=seen, first=first) -> None:
            seen.append(text)
            if len(seen) == first:
                raise KeyboardInterrupt(text)

        with pytest.raises(KeyboardInterrupt, match=said):
            density(operator(SPECTRA["flat"]), steps=35, progress=stop)
