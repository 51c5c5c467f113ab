from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import Tensor

from flatmeter.errors import NonFinite, UsageError
from flatmeter.estimate import Why
from flatmeter.spectral.density import Density, Quadrature, density
from flatmeter.spectral.operator import MatrixOperator


def rotated(eigenvalues: object, seed: int = 0) -> Tensor:
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * values) @ q.T


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


def wasserstein(quadrature: Quadrature, eigenvalues: np.ndarray) -> float:
    """Area between the cumulative distributions of the nodes and of the eigenvalues."""
    n = len(quadrature.nodes)
    places = np.concatenate([quadrature.nodes.ravel(), eigenvalues])
    mass = np.concatenate([quadrature.weights.ravel() / n, np.full_like(eigenvalues, -1.0)])
    mass[-len(eigenvalues) :] /= len(eigenvalues)
    order = np.argsort(places)
    return float(np.abs(np.cumsum(mass[order])[:-1]) @ np.diff(places[order]))


@pytest.mark.parametrize("name", SPECTRA)
def test_wasserstein_distance_falls_with_steps_and_probes(name: str) -> None:
    eigenvalues = SPECTRA[name]
    op = MatrixOperator(rotated(eigenvalues))

    def distance(steps: int, probes: int) -> float:
        found = density(op, steps=steps, rtol=1e-9, max_products=steps * probes)
        return wasserstein(found.quadrature, eigenvalues) / np.ptp(eigenvalues)

    coarse, middle, fine = (distance(steps, 16) for steps in (2, 6, 18))
    assert coarse > 2 * middle > 2.5 * fine
    assert fine < 0.02
    assert np.mean([distance(18, n) for n in (2, 3)]) > distance(18, 24)


@pytest.mark.parametrize("name", SPECTRA)
def test_agrees_with_the_exact_curves(name: str) -> None:
    eigenvalues = SPECTRA[name]
    found = density(MatrixOperator(rotated(eigenvalues)), steps=20, rtol=0.02)
    heights, cumulative = smoothed(eigenvalues, found)
    assert found.converged
    assert found.cumulative.half_width(0.95).max() <= 0.02
    assert np.abs(found.cumulative.value - cumulative).max() <= 0.03
    assert np.abs(found.heights.value - heights).max() <= 0.15 * heights.max()
    assert np.trapezoid(found.heights.value, found.grid) == pytest.approx(1.0, abs=1e-3)
    assert found.cumulative.value[-1] == pytest.approx(1.0, abs=1e-4)
    assert found.width == pytest.approx(np.ptp(eigenvalues) / 20, rel=0.05)


@pytest.mark.parametrize("name", ["flat", "decaying", "indefinite"])
@pytest.mark.parametrize("probes", [4, 8])
def test_bands_cover_93_to_97_percent(name: str, probes: int) -> None:
    # Every eigenvalue is a node here, so that many runs cost no product.
    eigenvalues = np.sort(SPECTRA[name])[::4]
    op = MatrixOperator(torch.zeros(30, 30))
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(100):
        weights = generator.standard_normal((probes, 30)) ** 2
        weights /= weights.sum(1, keepdims=True)
        nodes = np.tile(eigenvalues, (probes, 1))
        known = Quadrature(nodes, weights, np.full(probes, 30))
        found = density(op, rtol=1e-9, max_products=30 * probes, quadrature=known)
        heights, cumulative = smoothed(eigenvalues, found)
        inside = (cumulative > 0.01) & (cumulative < 0.99)
        for curve, exact in ((found.heights, heights), (found.cumulative, cumulative)):
            low, high = curve.band()
            covered.append(((low <= exact) & (exact <= high))[inside].mean())
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("probes", [2, 5])
def test_extending_is_a_longer_run_to_the_last_bit(probes: int) -> None:
    op = MatrixOperator(rotated(SPECTRA["decaying"]).float())
    short = density(op, steps=10, rtol=1e-9, max_products=10 * probes)
    extended = density(op, rtol=1e-9, max_products=80, quadrature=short.quadrature)
    scratch = density(op, steps=10, rtol=1e-9, max_products=80)
    assert np.array_equal(extended.quadrature.nodes, scratch.quadrature.nodes)
    assert np.array_equal(extended.heights.value, scratch.heights.value)
    assert np.array_equal(extended.cumulative.stderr, scratch.cumulative.stderr)


def test_a_saved_run_that_suffices_costs_no_product() -> None:
    op = MatrixOperator(rotated(SPECTRA["flat"]))
    done = density(op, steps=10, rtol=0.1)
    op.matmat = None  # any product would fail
    again = density(op, rtol=0.1, quadrature=done.quadrature)
    assert np.array_equal(again.heights.value, done.heights.value)


def test_few_distinct_eigenvalues_are_found_exactly() -> None:
    eigenvalues = np.repeat([3.0, 0.0, -1.0], [2, 50, 8])
    found = density(MatrixOperator(rotated(eigenvalues)), rtol=1e-9, max_products=60 * 6)
    assert (found.quadrature.products == 3).all()
    np.testing.assert_allclose(found.quadrature.nodes[:, :3], [[-1.0, 0.0, 3.0]] * 6, atol=1e-9)
    np.testing.assert_allclose(found.quadrature.weights.sum(1), 1.0)


@pytest.mark.parametrize("matrix", [torch.zeros(7, 7), 3 * torch.eye(1), -2 * torch.eye(5)])
def test_a_single_eigenvalue(matrix: Tensor) -> None:
    found = density(MatrixOperator(matrix))
    peak = float(found.grid[found.heights.value.argmax()])
    assert peak == pytest.approx(float(matrix[0, 0]), abs=1e-5)
    assert found.converged


def test_budget_and_memory() -> None:
    op = MatrixOperator(rotated(SPECTRA["flat"]))
    found = density(op, steps=10, rtol=1e-9, max_products=59)
    assert (found.cumulative.n, found.converged, found.why) == (5, False, Why.BUDGET)
    small = density(op, memory_bytes=7 * 120 * 8, rtol=0.2)
    assert small.quadrature.nodes.shape[1] == 7


def test_errors_and_stopping_by_the_caller() -> None:
    with pytest.raises(NonFinite):
        density(MatrixOperator(torch.full((3, 3), float("inf"))))
    with pytest.raises(UsageError):
        density(MatrixOperator(torch.eye(70)), max_products=119)

    def stop(text: str) -> None:
        raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt, match="probe 1, 1 products"):
        density(MatrixOperator(torch.eye(3)), progress=stop)
