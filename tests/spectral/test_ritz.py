from __future__ import annotations

import numpy as np
import pytest

from flatmeter.spectral.ritz import Projected, attainable, certify

WANTED = np.array([2])


def judged(values, residuals, wanted=WANTED, rtol=1e-4, criterion="error", noise=1e-12):
    return certify(
        np.array(values), np.array(residuals), wanted, rtol=rtol, criterion=criterion, noise=noise
    )


def test_isolated_value_is_off_by_the_square_of_its_residual_over_the_gap() -> None:
    found = judged([-1.0, 2.0, 10.0], [0.5, 1.0, 0.01])
    assert found.bounds[0] == pytest.approx(0.01**2 / (8.0 - 1.0), rel=1e-6)
    assert found.converged[0]


def test_without_a_gap_the_residual_is_the_bound() -> None:
    found = judged([-1.0, 9.9, 10.0], [0.5, 0.2, 0.01])
    assert found.bounds[0] == pytest.approx(0.01, rel=1e-6)
    assert not found.converged[0]
    alone = judged([3.0], [0.01], np.array([0]))
    assert alone.bounds[0] == pytest.approx(0.01, rel=1e-6)


def test_a_large_residual_is_not_trusted_whatever_the_gap() -> None:
    values, residuals = [-1.0, 2.0, 10.0], [0.5, 1.0, 0.02]
    assert not judged(values, residuals).converged[0]
    assert judged(values, residuals, rtol=1e-2).converged[0]


def test_residual_criterion_asks_for_more() -> None:
    values, residuals = [-1.0, 2.0, 10.0], [0.5, 1.0, 0.005]
    assert judged(values, residuals).converged[0]
    assert not judged(values, residuals, criterion="residual").converged[0]
    assert judged(values, [0.5, 1.0, 0.0009], criterion="residual").converged[0]


def test_a_value_near_zero_is_judged_by_the_radius() -> None:
    found = judged([-1e-9, 5.0, 10.0], [1e-4, 1.0, 1.0], np.array([0]))
    assert found.converged[0]


def test_rounding_is_part_of_the_bound_and_a_tolerance_below_it_is_not_met() -> None:
    found = judged([-1.0, 2.0, 10.0], [0.5, 1.0, 0.0], noise=1e-5, rtol=1e-9)
    assert found.bounds[0] == pytest.approx(1e-4)
    assert found.settled[0]
    assert not found.converged[0]


def test_projected_matrix_grows_and_restarts() -> None:
    rng = np.random.default_rng(0)
    matrix = Projected()
    for alpha, beta in rng.uniform(0.5, 1.5, (4, 2)):
        values, vectors = matrix.grow(alpha, beta)
    dense = np.diag(matrix.alphas) + np.diag(matrix.betas[:-1], 1) + np.diag(matrix.betas[:-1], -1)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(dense))
    matrix.restart(values[2:], vectors[-1, 2:])
    coupling = matrix.betas[-1] * vectors[-1, 2:]
    after, _ = matrix.grow(0.3, 0.1)
    again, _ = matrix.grow(0.7, 0.2)
    arrow = np.diag([*values[2:], 0.3, 0.7])
    arrow[2, :2] = arrow[:2, 2] = coupling
    np.testing.assert_allclose(after, np.linalg.eigvalsh(arrow[:3, :3]))
    arrow[2, 3] = arrow[3, 2] = 0.1
    np.testing.assert_allclose(again, np.linalg.eigvalsh(arrow))


def test_a_default_tolerance_leaves_room_for_rounding() -> None:
    assert attainable(1e-4, 1e-12) == 1e-4
    assert attainable(1e-4, 1e-4) == pytest.approx(1e-3)
    assert attainable(1e-4, 0.5) == pytest.approx(1e-2)
