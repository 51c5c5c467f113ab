from __future__ import annotations

import numpy as np
import pytest
import torch
from spectra import operator, rotated

from flatmeter.errors import NonFinite, UsageError
from flatmeter.estimate import Why
from flatmeter.spectral.operator import MatrixOperator
from flatmeter.spectral.trace import block_traces, hutchinson

DECAY = np.geomspace(10.0, 1e-3, 40)
THIRDS = {"a": slice(0, 10), "b": slice(10, 25), "c": slice(25, 40)}


@pytest.mark.parametrize(
    ("eigenvalues", "rtol"),
    [
        (np.linspace(1.0, 2.0, 40), 0.02),
        (DECAY, 0.1),
        (np.concatenate([[6.0, -2.0], np.linspace(-0.2, 1.0, 38)]), 0.1),
        (30.0 / np.arange(1, 41) ** 1.5, 0.15),
        (np.concatenate([[12.0], np.ones(39)]), 0.05),
    ],
    ids=["flat", "decaying", "indefinite", "power law", "one over a constant"],
)
def test_95_percent_intervals_cover_to_within_sampling(
    eigenvalues: np.ndarray, rtol: float
) -> None:
    op = operator(eigenvalues)
    true = eigenvalues.sum()
    covered = 0
    for seed in range(200):
        found = hutchinson(op, rtol=rtol, seed=seed).estimate
        low, high = found.interval(0.95)
        covered += low <= true <= high
        assert found.converged
    # Over more seeds 93 % to 97 %, and 92 % for the last: tests/bench/bench_coverage.py.
    assert 181 <= covered <= 197


def test_stops_on_the_half_width() -> None:
    op = operator(DECAY)
    found = hutchinson(op, rtol=0.05)
    low, high = found.estimate.interval(0.95)
    assert (high - low) / 2 <= 0.05 * abs(found.estimate.value)
    assert found.estimate.why is Why.INTERVAL
    before = found.values[:-8]
    half = 1.96 * before.std(ddof=1) / np.sqrt(len(before))
    assert half * (1 + 20 / len(before)) > 0.05 * before.mean()


@pytest.mark.parametrize("first", [16, 20, 37])
def test_extending_is_a_longer_run_to_the_last_bit(first: int) -> None:
    op = MatrixOperator(rotated(DECAY).float())
    short = hutchinson(op, rtol=1e-9, max_probes=first)
    extended = hutchinson(op, rtol=1e-9, max_probes=64, values=short.values)
    scratch = hutchinson(op, rtol=1e-9, max_probes=64)
    assert np.array_equal(extended.values, scratch.values)
    assert extended.estimate == scratch.estimate


def test_a_saved_run_that_suffices_costs_no_product() -> None:
    op = operator(DECAY)
    done = hutchinson(op, rtol=0.1)
    op.matmat = None  # any product would fail
    again = hutchinson(op, rtol=0.1, values=done.values)
    assert again.estimate == done.estimate


def test_budget() -> None:
    found = hutchinson(operator(DECAY), rtol=1e-6, max_probes=20).estimate
    assert (found.n, found.converged, found.why) == (20, False, Why.BUDGET)
    assert len(found.history) == 20
    assert found.history[-1] == pytest.approx(found.value)


def test_diagonal_is_exact_and_zero_converges() -> None:
    found = hutchinson(MatrixOperator(torch.diag(torch.arange(5.0)))).estimate
    assert (found.value, found.stderr, found.n) == (10.0, 0.0, 16)
    assert hutchinson(MatrixOperator(torch.zeros(7, 7))).estimate.converged


def test_block_traces_are_unbiased_and_share_their_probes() -> None:
    matrix = rotated(DECAY, seed=3)
    op = MatrixOperator(matrix)
    found = block_traces(op, THIRDS, rtol=0.05, max_probes=20000)
    assert found.converged
    for name, place in THIRDS.items():
        true = float(torch.trace(matrix[place, place]))
        estimate = found.blocks[name]
        assert abs(estimate.value - true) <= 4 * estimate.stderr
    assert found.total.value == pytest.approx(sum(e.value for e in found.blocks.values()))
    whole = hutchinson(op, rtol=1e-9, max_probes=len(found.values)).values
    np.testing.assert_allclose(found.values.sum(1), whole)


def test_variance_of_a_block_is_the_formula() -> None:
    matrix = rotated(DECAY, seed=3)
    found = block_traces(MatrixOperator(matrix), THIRDS, rtol=1e-9, max_probes=4000)
    within = matrix[:10, :10]
    across = matrix[:10, 10:]
    variance = 2 * (within.square().sum() - within.diag().square().sum()) + across.square().sum()
    assert found.values[:, 0].var() == pytest.approx(float(variance), rel=0.15)


def test_block_extension_is_bit_identical() -> None:
    op = operator(DECAY)
    short = block_traces(op, THIRDS, rtol=1e-9, max_probes=24)
    extended = block_traces(op, THIRDS, rtol=1e-9, max_probes=48, values=short.values)
    scratch = block_traces(op, THIRDS, rtol=1e-9, max_probes=48)
    assert np.array_equal(extended.values, scratch.values)


def test_control_variate() -> None:
    matrix = rotated(DECAY)
    known = matrix + 0.01 * rotated(np.linspace(-1.0, 1.0, 40), seed=9)
    offsets = {n: float(torch.trace(known[s, s])) for n, s in THIRDS.items()}
    plain = block_traces(MatrixOperator(matrix), THIRDS, rtol=0.05)
    helped = block_traces(MatrixOperator(matrix - known), THIRDS, offsets=offsets, rtol=0.05)
    assert len(helped.values) < len(plain.values)
    assert helped.total.value == pytest.approx(DECAY.sum(), rel=0.01)


def test_chunks_of_probes_change_only_rounding() -> None:
    op = operator(DECAY)
    one = hutchinson(op, rtol=1e-9, max_probes=32, block=1).values
    many = hutchinson(op, rtol=1e-9, max_probes=32, block=32).values
    np.testing.assert_allclose(one, many, rtol=1e-12)


def test_errors() -> None:
    matrix = torch.full((3, 3), float("inf"))
    with pytest.raises(NonFinite):
        hutchinson(MatrixOperator(matrix))
    with pytest.raises(UsageError):
        hutchinson(MatrixOperator(torch.eye(3)), min_probes=1)


def test_progress_may_stop_the_run() -> None:
    def stop(text: str) -> None:
        raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt, match="8 probes"):
        hutchinson(MatrixOperator(torch.eye(3)), progress=stop)
