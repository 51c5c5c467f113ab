from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from spectra import operator, rotated

from flatmeter.errors import NonFinite, UsageError
from flatmeter.estimate import Why
from flatmeter.spectral.hutchpp import Deflation, hutchpp
from flatmeter.spectral.operator import MatrixOperator
from flatmeter.spectral.trace import hutchinson

DECAY = np.geomspace(10.0, 1e-3, 40)
SPECTRA = {
    "flat": (np.linspace(1.0, 2.0, 40), 0.06),
    "decaying": (DECAY, 0.06),
    "rank one and tail": (np.concatenate([[30.0], np.linspace(0.0, 1.0, 39)]), 0.03),
    "indefinite": (np.concatenate([[6.0, -2.0], np.linspace(-0.2, 1.0, 38)]), 0.1),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_95_percent_intervals_cover_to_within_sampling(name: str) -> None:
    eigenvalues, rtol = SPECTRA[name]
    op = operator(eigenvalues)
    covered = 0
    for seed in range(200):
        found = hutchpp(op, sketch=8, rtol=rtol, block=8, seed=seed).estimate
        low, high = found.interval(0.95)
        covered += low <= eigenvalues.sum() <= high
        assert found.converged
    assert 184 <= covered <= 196  # over 1000 seeds 93 % to 96 %


def test_the_sketch_takes_out_what_is_large() -> None:
    op = operator(DECAY)
    plain = hutchinson(op, rtol=1e-9, max_probes=36).estimate
    found = hutchpp(op, rtol=1e-9, max_products=36)
    assert found.products == 36
    assert found.estimate.n == 12
    assert found.estimate.stderr < 0.2 * plain.stderr
    assert abs(found.estimate.value - DECAY.sum()) <= 4 * found.estimate.stderr


def test_both_parts_are_those_of_the_formula() -> None:
    matrix = rotated(DECAY)
    found = hutchpp(MatrixOperator(matrix), sketch=5, rtol=1e-9, max_products=5000)
    Q = found.deflation.basis
    torch.testing.assert_close(Q @ Q.T, torch.eye(5, dtype=torch.float64))
    assert found.deflation.trace == pytest.approx(float(torch.trace(Q @ matrix @ Q.T)))
    away = torch.eye(40, dtype=torch.float64) - Q.T @ Q
    rest = away @ matrix @ away
    variance = 2 * (rest.square().sum() - rest.diag().square().sum())
    assert found.values.var() == pytest.approx(float(variance), rel=0.15)


def test_low_rank_is_exact_and_costs_no_direction_beyond_the_rank() -> None:
    eigenvalues = np.concatenate([[3.0, 2.0, -1.0], np.zeros(37)])
    for dtype, digits in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        found = hutchpp(MatrixOperator(rotated(eigenvalues).to(dtype)))
        assert len(found.deflation.basis) == 3
        assert found.products == 12 + 3 + 16
        assert found.estimate.value == pytest.approx(4.0, abs=digits)
        assert found.estimate.converged
    assert hutchpp(MatrixOperator(torch.zeros(7, 7))).estimate.value == 0.0


@pytest.mark.parametrize("budget", [40, 46])
def test_extending_is_a_longer_run_to_the_last_bit(budget: int) -> None:
    op = MatrixOperator(rotated(DECAY).float())
    short = hutchpp(op, rtol=1e-9, max_products=budget)
    file = io.BytesIO()
    np.savez(file, **short.deflation.arrays())
    file.seek(0)
    deflation = Deflation.of_arrays(op, np.load(file))
    extended = hutchpp(op, rtol=1e-9, max_products=64, deflation=deflation, values=short.values)
    scratch = hutchpp(op, rtol=1e-9, max_products=64)
    assert np.array_equal(extended.values, scratch.values)
    assert extended.estimate == scratch.estimate
    assert extended.products == scratch.products == 64


def test_budget_and_memory() -> None:
    op = operator(DECAY)
    found = hutchpp(op, rtol=1e-9, max_products=30)
    assert (found.products, found.estimate.why) == (30, Why.BUDGET)
    assert len(hutchpp(op, memory_bytes=2 * 40 * 8 * 5).deflation.basis) == 5


def test_errors_and_stopping_by_the_caller() -> None:
    with pytest.raises(NonFinite):
        hutchpp(MatrixOperator(torch.full((3, 3), float("inf"))))
    with pytest.raises(UsageError):
        hutchpp(MatrixOperator(torch.eye(3)), max_products=25)

    def stop(text: str) -> None:
        raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt, match="sketch of 3"):
        hutchpp(MatrixOperator(torch.eye(3)), progress=stop)
