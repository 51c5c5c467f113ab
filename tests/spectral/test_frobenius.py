from __future__ import annotations

import numpy as np
import pytest
import torch
from spectra import operator, rotated

from flatmeter.errors import NonFinite, UsageError
from flatmeter.estimate import Why
from flatmeter.spectral.frobenius import squared_frobenius
from flatmeter.spectral.operator import MatrixOperator

DECAY = np.geomspace(10.0, 1e-3, 40)


@pytest.mark.parametrize(
    ("eigenvalues", "rtol"),
    [
        (np.linspace(1.0, 2.0, 40), 0.05),
        (DECAY, 0.2),
        (np.concatenate([[3.0, -2.0], np.linspace(-0.5, 1.0, 38)]), 0.2),
    ],
    ids=["flat", "decaying", "indefinite"],
)
def test_95_percent_intervals_cover_93_to_97_percent(eigenvalues: np.ndarray, rtol: float) -> None:
    op = operator(eigenvalues)
    true = np.square(eigenvalues).sum()
    covered = 0
    for seed in range(300):
        found = squared_frobenius(op, rtol=rtol, seed=seed).estimate
        low, high = found.interval(0.95)
        covered += low <= true <= high
        assert found.converged
    assert 279 <= covered <= 291


def test_variance_is_the_formula() -> None:
    matrix = rotated(DECAY)
    found = squared_frobenius(MatrixOperator(matrix), rtol=1e-9, max_products=4000)
    square = matrix @ matrix
    variance = 2 * (square.square().sum() - square.diag().square().sum())
    assert found.values.var() == pytest.approx(float(variance), rel=0.15)
    assert found.estimate.value == pytest.approx(np.square(DECAY).sum(), rel=0.1)


@pytest.mark.parametrize("first", [16, 20, 37])
def test_extending_is_a_longer_run_to_the_last_bit(first: int) -> None:
    op = MatrixOperator(rotated(DECAY).float())
    short = squared_frobenius(op, rtol=1e-9, max_products=first)
    extended = squared_frobenius(op, rtol=1e-9, max_products=64, values=short.values)
    scratch = squared_frobenius(op, rtol=1e-9, max_products=64)
    assert np.array_equal(extended.values, scratch.values)
    assert extended.estimate == scratch.estimate


def test_a_saved_run_that_suffices_costs_no_product() -> None:
    op = operator(DECAY)
    done = squared_frobenius(op, rtol=0.3)
    op.matmat = None  # any product would fail
    assert squared_frobenius(op, rtol=0.3, values=done.values).estimate == done.estimate


def test_budget() -> None:
    found = squared_frobenius(operator(DECAY), rtol=1e-6, max_products=20).estimate
    assert (found.n, found.converged, found.why) == (20, False, Why.BUDGET)
    assert found.history[-1] == pytest.approx(found.value)


def test_squares_that_overflow_in_float32() -> None:
    found = squared_frobenius(MatrixOperator(torch.diag(torch.full((5,), 1e25)))).estimate
    assert found.value == pytest.approx(5e50, rel=1e-5)
    assert found.converged


def test_errors_and_stopping_by_the_caller() -> None:
    with pytest.raises(NonFinite):
        squared_frobenius(MatrixOperator(torch.full((3, 3), float("inf"))))
    with pytest.raises(UsageError):
        squared_frobenius(MatrixOperator(torch.eye(3)), max_products=1)

    def stop(text: str) -> None:
        raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt, match="8 products"):
        squared_frobenius(MatrixOperator(torch.eye(3)), progress=stop)
