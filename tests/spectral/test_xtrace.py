from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from spectra import operator, rotated
from torch import Tensor

from flatmeter.errors import NonFinite, UsageError
from flatmeter.estimate import Why
from flatmeter.spectral.operator import MatrixOperator
from flatmeter.spectral.xtrace import exchangeable, xtrace
from flatmeter.spectral.xtrace_sketch import Sketch

DECAY = np.geomspace(10.0, 1e-3, 60)
SPECTRA = {
    "flat": (np.linspace(1.0, 2.0, 60), 0.05),
    "decaying": (DECAY, 0.1),
    "rank one and tail": (np.concatenate([[30.0], np.geomspace(1.0, 1e-4, 59)]), 0.05),
    "indefinite": (np.concatenate([[6.0, -2.0], np.linspace(-0.2, 1.0, 58)]), 0.25),
}


def value_by_definition(matrix: Tensor, probes: Tensor, left_out: int) -> float:
    """One term of the estimator, with the projections written out."""
    others = torch.cat([probes[:left_out], probes[left_out + 1 :]])
    Q = torch.linalg.qr(matrix @ others.T).Q
    rest = probes[left_out] - Q @ (Q.T @ probes[left_out])
    rest *= np.sqrt(len(matrix) - Q.shape[1]) / rest.norm()
    return float(torch.trace(Q.T @ matrix @ Q) + rest @ matrix @ rest)


@pytest.mark.parametrize("name", SPECTRA)
def test_values_are_those_of_the_definition(name: str) -> None:
    matrix = rotated(SPECTRA[name][0])
    found = xtrace(MatrixOperator(matrix), rtol=1e-9, max_products=24)
    probes = torch.cat(found.sketch.probes)
    wanted = [value_by_definition(matrix, probes, i) for i in range(12)]
    np.testing.assert_allclose(found.values, wanted, rtol=1e-9)
    assert found.estimate.value == pytest.approx(np.mean(wanted))


def test_the_error_holds_the_covariance_of_the_values() -> None:
    matrix = rotated(np.geomspace(1.0, 0.2, 60))
    found = xtrace(MatrixOperator(matrix), rtol=1e-9, max_products=24, seed=1)
    probes, k = torch.cat(found.sketch.probes), 12
    change = np.zeros((k, k))
    for j in range(k):
        without = torch.cat([probes[:j], probes[j + 1 :]])
        for i in set(range(k)) - {j}:
            pair = value_by_definition(matrix, without, i - (i > j))
            change[j, i] = found.values[i] - pair
    plain = found.values.var(ddof=1) / k
    covariance = (change * change.T).sum() / (k * (k - 1))
    assert covariance > 0.4 * plain
    assert found.estimate.stderr == pytest.approx(np.sqrt(plain + covariance))


@pytest.mark.parametrize("name", SPECTRA)
def test_95_percent_intervals_cover_to_within_sampling(name: str) -> None:
    eigenvalues, rtol = SPECTRA[name]
    op = MatrixOperator(torch.diag(torch.from_numpy(eigenvalues)))  # the probes know no axes
    at_stop = at_budget = 0
    for seed in range(200):
        found = xtrace(op, rtol=rtol, seed=seed)
        low, high = found.estimate.interval(0.95)
        at_stop += low <= eigenvalues.sum() <= high
        assert found.estimate.converged
        values, stderr = exchangeable(found.sketch, 9, 60)
        at_budget += abs(values.mean() - eigenvalues.sum()) <= 2.306 * stderr
    # Over 1500 other seeds: 94.1 % to 96.2 % at the stop, 95.2 % to 96.9 % at nine probes, where
    # the plain error covers 84.9 % to 92.4 %. 200 seeds tell these to within 4.5 %.
    assert 182 <= at_stop <= 199
    assert 182 <= at_budget <= 199


def test_stops_on_the_half_width() -> None:
    found = xtrace(operator(DECAY), rtol=0.01)
    low, high = found.estimate.interval(0.95)
    assert (high - low) / 2 <= 0.01 * found.estimate.value
    assert found.estimate.why is Why.INTERVAL
    assert found.products == 2 * found.estimate.n
    assert abs(found.estimate.value - DECAY.sum()) <= 4 * found.estimate.stderr


@pytest.mark.parametrize("first", [18, 20, 48])
def test_extending_is_a_longer_run_to_the_last_bit(first: int) -> None:
    op = MatrixOperator(rotated(DECAY).float())
    short = xtrace(op, rtol=1e-9, max_products=first)
    file = io.BytesIO()
    np.savez(file, **short.sketch.arrays())
    file.seek(0)
    sketch = Sketch.of_arrays(op, np.load(file))
    extended = xtrace(op, rtol=1e-9, max_products=36, sketch=sketch)
    scratch = xtrace(op, rtol=1e-9, max_products=36)
    assert np.array_equal(extended.values, scratch.values)
    assert extended.estimate == scratch.estimate


def test_a_saved_run_that_suffices_costs_no_product() -> None:
    op = operator(DECAY)
    done = xtrace(op, rtol=0.1)
    op.matmat = None  # any product would fail
    assert xtrace(op, rtol=0.1, sketch=done.sketch).estimate == done.estimate


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_exact_once_the_sketch_spans_the_space(size: int) -> None:
    eigenvalues = np.linspace(-1.0, 2.0, size)
    found = xtrace(operator(eigenvalues), rtol=1e-12).estimate
    assert found.value == pytest.approx(eigenvalues.sum(), abs=1e-9)
    assert found.converged
    assert found.stderr < 1e-9  # what is left is rounding


@pytest.mark.parametrize("rank", [0, 1, 3, 8])
def test_low_rank_is_exact_to_rounding(rank: int) -> None:
    eigenvalues = np.concatenate([np.arange(1.0, rank + 1), np.zeros(60 - rank)])
    for dtype, digits in ((torch.float64, 1e-10), (torch.float32, 1e-3)):
        found = xtrace(MatrixOperator(rotated(eigenvalues).to(dtype)), rtol=1e-3)
        assert found.estimate.converged
        assert found.products <= 2 * (rank + 10)
        assert found.estimate.value == pytest.approx(eigenvalues.sum(), abs=digits)
        basis = torch.stack([found.sketch.basis[i] for i in range(found.estimate.n)])
        torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=dtype))


def test_budget_and_memory() -> None:
    op = operator(DECAY)
    found = xtrace(op, rtol=1e-9, max_products=37)
    assert (found.products, found.estimate.n, found.estimate.why) == (36, 18, Why.BUDGET)
    assert len(found.estimate.history) == 6
    held = xtrace(op, rtol=1e-9, memory_bytes=2 * 60 * 8 * 15)
    assert (held.estimate.n, held.estimate.why) == (15, Why.BUDGET)


def test_block_size_changes_only_rounding() -> None:
    op = operator(DECAY)
    two = xtrace(op, rtol=1e-9, max_products=24, block=2).values
    six = xtrace(op, rtol=1e-9, max_products=24, block=6).values
    np.testing.assert_allclose(two, six, rtol=1e-9)


def test_leading_probes_are_an_earlier_run() -> None:
    op = operator(DECAY)
    sketch = Sketch(op, 3)
    for _ in range(4):
        sketch.grow(op, 0, "xtrace")
    values, stderr = exchangeable(sketch, 9, 60)
    short = xtrace(op, rtol=1e-9, max_products=18)
    assert np.array_equal(values, short.values)
    assert stderr == short.estimate.stderr


def test_errors_and_stopping_by_the_caller() -> None:
    with pytest.raises(NonFinite):
        xtrace(MatrixOperator(torch.full((3, 3), float("inf"))))
    with pytest.raises(UsageError):
        xtrace(MatrixOperator(torch.eye(3)), max_products=5)
    with pytest.raises(UsageError):
        xtrace(MatrixOperator(torch.eye(3)), block=1)

    def stop(text: str) -> None:
        raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt, match="6 products"):
        xtrace(MatrixOperator(torch.eye(3)), progress=stop)
