from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from spectra import operator

from flatmeter.errors import NonFinite, UsageError
from flatmeter.estimate import Why
from flatmeter.spectral.lanczos import lanczos, restored
from flatmeter.spectral.operator import MatrixOperator

TRAINED = np.concatenate([np.geomspace(30.0, 1e-6, 110), -np.geomspace(1e-6, 1.0, 10)])


def through_a_file(op, krylov):
    """The same Krylov space, written and read."""
    file = io.BytesIO()
    np.savez(file, **krylov.arrays())
    file.seek(0)
    return restored(op, np.load(file))


def same(one, two) -> bool:
    pairs = [
        (end_one, end_two) for end_one, end_two in ((one.upper, two.upper), (one.lower, two.lower))
    ]
    return (one.products, one.why, one.restarts) == (two.products, two.why, two.restarts) and all(
        torch.equal(a.values, b.values)
        and torch.equal(a.bounds, b.bounds)
        and torch.equal(a.vectors, b.vectors)
        and np.array_equal(a.history, b.history, equal_nan=True)
        for a, b in pairs
    )


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("rows", [None, 24])
@pytest.mark.parametrize("budget", [6, 21, 23, 40])
def test_extending_is_a_longer_run_to_the_last_bit(block, rows, budget) -> None:
    op = operator(TRAINED, dtype=torch.float32)
    options = {"k": 2, "rtol": 1e-6, "block": block, "seed": 5}
    options["memory_bytes"] = rows and rows * 120 * 4
    short = lanczos(op, max_products=budget, **options)
    scratch = lanczos(op, max_products=75, **options)
    assert not short.converged
    assert (scratch.restarts > 0) == (rows is not None)
    saved = through_a_file(op, short.krylov)
    extended = lanczos(op, k=2, rtol=1e-6, max_products=75, krylov=saved)
    assert same(extended, scratch)
    again = lanczos(op, k=2, rtol=1e-6, max_products=75, krylov=short.krylov)
    assert same(again, scratch)


@pytest.mark.parametrize("block", [1, 4])
def test_a_run_that_met_its_tolerance_goes_on_to_a_tighter_one(block) -> None:
    op = operator(TRAINED)
    loose = lanczos(op, rtol=1e-2, block=block)
    scratch = lanczos(op, rtol=1e-9, block=block)
    assert loose.converged
    assert loose.products < scratch.products
    assert same(lanczos(op, rtol=1e-9, krylov=through_a_file(op, loose.krylov)), scratch)


def test_an_exhausted_space_goes_on_with_the_same_fresh_vectors() -> None:
    op = operator(np.concatenate([[4.0, 4.0, -2.0], np.zeros(57)]))
    scratch = lanczos(op, k=2)
    for budget in range(3, scratch.products):
        short = lanczos(op, k=2, max_products=budget)
        saved = through_a_file(op, short.krylov)
        assert same(lanczos(op, k=2, krylov=saved), scratch)


def test_a_saved_run_that_suffices_costs_no_product() -> None:
    op = operator(TRAINED)
    done = lanczos(op)
    saved = through_a_file(op, done.krylov)
    op.matmat = None  # any product would fail
    assert same(lanczos(op, krylov=saved), done)


@pytest.mark.parametrize("size", [1, 2])
def test_a_block_wider_than_the_space_is_restored(size) -> None:
    op = operator([3.0, -1.0][:size])
    short = lanczos(op, block=3)
    assert same(lanczos(op, krylov=through_a_file(op, short.krylov)), short)
    assert short.largest.tolist() == pytest.approx([3.0])


def test_another_dimension_is_refused() -> None:
    saved = lanczos(operator(TRAINED)).krylov.arrays()
    with pytest.raises(UsageError, match="dimension 120, not 7"):
        restored(MatrixOperator(torch.eye(7)), saved)


SPECTRA = {
    "isolated": np.concatenate([[10.0, -4.0], np.linspace(-0.5, 1.0, 118)]),
    "multiple": np.concatenate([[5.0] * 3, [-2.0] * 2, np.linspace(-1.0, 1.0, 115)]),
    "clustered": np.concatenate([[10.0, 9.99, 9.98, -4.0, -3.99], np.linspace(-0.5, 1.0, 115)]),
    "low rank": np.concatenate([[3.0, 2.0, -1.0], np.zeros(117)]),
    "trained": TRAINED,
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("block", [2, 5, 16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_blocks_find_both_ends_within_their_certificates(name, block, dtype) -> None:
    true, radius = np.sort(SPECTRA[name]), np.abs(SPECTRA[name]).max()
    op = operator(SPECTRA[name], dtype=dtype)
    for rows in (None, 50):
        memory = rows and rows * 120 * dtype.itemsize
        found = lanczos(op, rtol=1e-4, block=block, max_products=1000, memory_bytes=memory)
        assert found.converged
        for estimate, value in (
            (found.estimate_largest(), true[-1]),
            (found.estimate_smallest(), true[0]),
        ):
            error = abs(estimate.value - value)
            assert error <= estimate.residual
            assert error <= 1e-4 * max(abs(value), 0.1 * radius) + 2 * op.noise * radius


def test_a_block_sees_as_many_copies_as_it_has_vectors() -> None:
    op = operator(SPECTRA["multiple"])
    found = lanczos(op, which="largest", k=3, block=3, rtol=1e-4)
    np.testing.assert_allclose(found.largest, [5.0, 5.0, 5.0], rtol=1e-8)
    assert found.why is Why.RESIDUAL
    single = lanczos(op, which="largest", k=3, rtol=1e-4, max_products=found.products)
    assert not np.allclose(single.largest, 5.0, rtol=1e-3)


@pytest.mark.parametrize("rows", [None, 30])
def test_residuals_of_blocks_are_those_of_the_ritz_pairs(rows) -> None:
    op = operator(SPECTRA["isolated"])
    memory = rows and rows * 120 * 8
    found = lanczos(op, k=2, block=4, rtol=1e-3, memory_bytes=memory, max_products=1000)
    assert (found.restarts > 0) == (rows is not None)
    values, vectors = found.largest, found.vectors_largest
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(2, dtype=torch.float64))
    actual = torch.linalg.vector_norm(vectors @ op.matrix - values[:, None] * vectors, dim=1)
    torch.testing.assert_close(actual, found.residual_largest, rtol=1e-6, atol=1e-12)


def test_blocks_at_the_edges() -> None:
    zero = lanczos(MatrixOperator(torch.zeros(50, 50)), k=3, block=4)
    assert zero.largest.tolist() == [0.0] * 3
    assert zero.converged
    small = lanczos(operator([3.0, 1.0, -1.0]), k=3, block=2, rtol=1e-15)
    np.testing.assert_allclose(small.largest, [3.0, 1.0, -1.0], atol=1e-13)
    wide = lanczos(operator([3.0, 1.0, -1.0]), k=3, block=5, max_products=5)
    assert (wide.products, wide.why) == (3, Why.BREAKDOWN)
    found = lanczos(operator(TRAINED), block=4, max_products=11)
    assert (found.products, found.why, found.converged) == (8, Why.BUDGET, False)


def test_nonsense_for_blocks_is_refused() -> None:
    op = operator(TRAINED)
    with pytest.raises(UsageError, match="at least a block"):
        lanczos(op, block=5, max_products=4)
    with pytest.raises(UsageError, match="start or block"):
        lanczos(op, block=2, start=torch.ones(120, dtype=torch.float64))
    with pytest.raises(NonFinite, match="product 1"):
        lanczos(MatrixOperator(torch.full((3, 3), float("nan"))), block=2)
