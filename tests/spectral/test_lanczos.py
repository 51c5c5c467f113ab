from __future__ import annotations

import numpy as np
import pytest
import torch
from spectra import operator, rotated

from flatmeter.errors import NonFinite, UsageError
from flatmeter.estimate import Why
from flatmeter.spectral.lanczos import lanczos
from flatmeter.spectral.operator import MatrixOperator

SPECTRA = {
    "isolated": np.concatenate([[10.0, -4.0], np.linspace(-0.5, 1.0, 118)]),
    "clustered": np.concatenate([[10.0, 9.99, 9.98, -4.0, -3.99], np.linspace(-0.5, 1.0, 115)]),
    "indefinite": np.linspace(-7.0, 3.0, 120),
    "negative dominates": np.concatenate([[-50.0, 2.0], np.linspace(-1.0, 1.0, 118)]),
    "multiple": np.concatenate([[5.0] * 3, [-2.0] * 2, np.linspace(-1.0, 1.0, 115)]),
    "low rank": np.concatenate([[3.0, 2.0, -1.0], np.zeros(117)]),
    "trained net": np.concatenate([np.geomspace(30.0, 1e-6, 110), -np.geomspace(1e-6, 1.0, 10)]),
    "psd with zeros": np.concatenate([np.geomspace(30.0, 1e-3, 60), np.zeros(60)]),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("criterion", ["error", "residual"])
def test_both_ends_within_tolerance_and_certificate(
    name: str, dtype: torch.dtype, criterion: str
) -> None:
    eigenvalues = SPECTRA[name]
    radius = np.abs(eigenvalues).max()
    noise = 100 * torch.finfo(dtype).eps
    # The gap cannot be seen while several eigenvalues lie closer together than the residual.
    hidden = 10.0 if name == "clustered" and criterion == "error" else 1.0
    for seed in range(3):
        op = operator(eigenvalues, seed=seed, dtype=dtype)
        found = lanczos(op, criterion=criterion, rtol=1e-4, seed=seed)
        assert found.converged
        for estimate, true in (
            (found.estimate_largest(), eigenvalues.max()),
            (found.estimate_smallest(), eigenvalues.min()),
        ):
            assert estimate.converged
            error = abs(estimate.value - true)
            tolerance = 1e-4 * max(abs(true), 0.1 * radius)
            assert error <= hidden * tolerance + 2 * noise * radius
            if hidden == 1.0:
                assert error <= estimate.residual


@pytest.mark.parametrize("name", SPECTRA)
def test_an_eigenvalue_lies_within_the_residual_at_every_budget(name: str) -> None:
    eigenvalues = SPECTRA[name]
    for seed in range(5):
        op = operator(eigenvalues, seed=seed)
        for budget in range(1, 15):
            found = lanczos(op, max_products=budget, rtol=1e-12, seed=seed)
            distance = np.abs(eigenvalues - float(found.largest[0])).min()
            assert distance <= float(found.residual_largest[0]) + 1e-12


def test_values_match_numpy_for_several_eigenvalues() -> None:
    eigenvalues = np.sort(SPECTRA["clustered"])
    found = lanczos(operator(eigenvalues), k=4, rtol=1e-9)
    np.testing.assert_allclose(found.largest, eigenvalues[::-1][:4], rtol=1e-8)
    np.testing.assert_allclose(found.smallest, eigenvalues[:4], rtol=1e-8)


def test_residuals_and_vectors_are_those_of_the_ritz_pairs() -> None:
    matrix = rotated(SPECTRA["isolated"])
    found = lanczos(MatrixOperator(matrix), k=2, rtol=1e-3)
    for values, vectors, residuals in (
        (found.largest, found.vectors_largest, found.residual_largest),
        (found.smallest, found.vectors_smallest, found.residual_smallest),
    ):
        assert vectors.shape == (2, 120)
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(2, dtype=torch.float64))
        actual = torch.linalg.vector_norm(vectors @ matrix - values[:, None] * vectors, dim=1)
        torch.testing.assert_close(actual, residuals, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("which", "upper", "lower"), [("largest", 2, 0), ("smallest", 0, 2)])
def test_one_end_only(which: str, upper: int, lower: int) -> None:
    found = lanczos(operator(SPECTRA["indefinite"]), which=which, k=2)
    assert found.converged
    assert found.largest.shape == (upper,)
    assert found.smallest.shape == (lower,)
    assert found.vectors_smallest.shape == (lower, 120)
    wanted = found.largest if upper else found.smallest
    ends = np.linspace(-7.0, 3.0, 120)
    np.testing.assert_allclose(wanted, ends[::-1][:2] if upper else ends[:2], rtol=1e-3)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("rows", [12, 30])
def test_restarted_equals_unrestarted(name: str, rows: int) -> None:
    op = operator(SPECTRA[name])
    free = lanczos(op, rtol=1e-6)
    bound = lanczos(op, rtol=1e-6, max_products=3000, memory_bytes=rows * 120 * 8)
    assert free.restarts == 0
    assert bound.converged
    radius = np.abs(SPECTRA[name]).max()
    assert bound.largest[0] == pytest.approx(float(free.largest[0]), rel=1e-6)
    assert bound.smallest[0] == pytest.approx(float(free.smallest[0]), rel=1e-6, abs=1e-7 * radius)


def test_memory_bound_is_kept() -> None:
    op = operator(SPECTRA["indefinite"])
    found = lanczos(op, rtol=1e-8, max_products=3000, memory_bytes=20 * 120 * 8)
    assert found.restarts > 0
    assert len(found.alphas) <= 20


def test_multiple_eigenvalues_appear_once_the_space_is_exhausted() -> None:
    found = lanczos(operator([4.0, 4.0, 1.0, 1.0, 0.0, -2.0, -2.0]), k=2)
    np.testing.assert_allclose(found.largest, [4.0, 4.0], atol=1e-12)
    np.testing.assert_allclose(found.smallest, [-2.0, -2.0], atol=1e-12)
    assert found.why is Why.BREAKDOWN


def test_start_in_an_invariant_subspace_does_not_hide_the_rest() -> None:
    matrix = torch.zeros(40, 40, dtype=torch.float64)
    matrix[:10, :10] = rotated(np.linspace(0.0, 1.0, 10))
    matrix[10:, 10:] = rotated(np.linspace(-3.0, 5.0, 30))
    start = torch.zeros(40, dtype=torch.float64)
    start[:10] = torch.randn(10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = lanczos(MatrixOperator(matrix), start=start, rtol=1e-8)
    assert found.largest[0] == pytest.approx(5.0)
    assert found.smallest[0] == pytest.approx(-3.0)


def test_zero_blocks() -> None:
    matrix = torch.zeros(60, 60, dtype=torch.float64)
    matrix[:3, :3] = rotated([7.0, 3.0, 1.0])
    found = lanczos(MatrixOperator(matrix))
    assert found.largest[0] == pytest.approx(7.0)
    assert found.smallest[0] == pytest.approx(0.0, abs=1e-12)
    assert found.why is Why.BREAKDOWN
    assert found.products < 20


def test_zero_operator() -> None:
    found = lanczos(MatrixOperator(torch.zeros(50, 50)), k=3)
    assert found.converged
    assert found.largest.tolist() == [0.0, 0.0, 0.0]
    assert found.estimate_smallest(2).residual == 0.0
    assert found.products == 4


def test_identity_and_single_dimension() -> None:
    found = lanczos(MatrixOperator(2.5 * torch.eye(30, dtype=torch.float64)), k=2)
    np.testing.assert_allclose(found.largest, [2.5, 2.5])
    assert found.products == 3
    one = lanczos(MatrixOperator(torch.tensor([[-3.0]])), k=5)
    assert one.largest.tolist() == one.smallest.tolist() == [-3.0]
    assert one.why is Why.BREAKDOWN


def test_fewer_dimensions_than_steps_is_exact() -> None:
    found = lanczos(operator([3.0, 1.0, -1.0]), k=3, rtol=1e-15)
    np.testing.assert_allclose(found.largest, [3.0, 1.0, -1.0], atol=1e-13)
    assert found.products == 3


def test_not_a_number_is_an_error() -> None:
    matrix = rotated(SPECTRA["isolated"])
    matrix[3, 4] = float("nan")
    with pytest.raises(NonFinite, match="product 1"):
        lanczos(MatrixOperator(matrix))


def test_budget() -> None:
    found = lanczos(operator(SPECTRA["indefinite"]), k=4, max_products=3)
    assert not found.converged
    assert found.why is Why.BUDGET
    assert found.largest.shape == (3,)
    estimate = found.estimate_largest()
    assert (estimate.n, estimate.converged, estimate.why) == (3, False, Why.BUDGET)
    assert len(estimate.history) == 3
    assert estimate.history[-1] == estimate.value


def test_deterministic_and_seeds_agree() -> None:
    op = operator(SPECTRA["trained net"])
    first, again, other = lanczos(op, seed=1), lanczos(op, seed=1), lanczos(op, seed=2)
    assert torch.equal(first.largest, again.largest)
    assert torch.equal(first.alphas, again.alphas)
    assert not torch.equal(first.alphas, other.alphas)
    assert first.largest[0] == pytest.approx(float(other.largest[0]), rel=1e-4)


def test_a_tolerance_below_rounding_ends_the_run_and_is_not_met() -> None:
    found = lanczos(operator(SPECTRA["isolated"], dtype=torch.float32), rtol=1e-12)
    assert not found.converged
    assert found.why is Why.PRECISION
    assert found.products < 100
    for estimate in (found.estimate_largest(), found.estimate_smallest()):
        assert not estimate.converged
        assert estimate.why is Why.PRECISION
        assert estimate.residual >= 50 * torch.finfo(torch.float32).eps * 10.0


def test_few_products_on_a_trained_spectrum() -> None:
    values = np.concatenate([[30.0, 12.0, 11.0, 8.0], np.geomspace(3.0, 1e-4, 190), [-0.8, -0.5]])
    counts = [lanczos(operator(values, seed=s), seed=s).products for s in range(5)]
    assert max(counts) <= 30


def test_progress_sees_each_product_and_may_stop_the_run() -> None:
    seen: list[str] = []

    def stop(text: str) -> None:
        seen.append(text)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lanczos(operator(SPECTRA["indefinite"]), progress=stop)
    assert "5 products" in seen[-1]


@pytest.mark.parametrize(
    "bad", [{"k": 0}, {"max_products": 0}, {"start": torch.zeros(3)}, {"start": torch.ones(4)}]
)
def test_nonsense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        lanczos(MatrixOperator(torch.eye(3)), **bad)


@pytest.mark.parametrize("name", SPECTRA)
def test_unfinished_runs_say_how_far_the_ends_may_lie_beyond(name: str) -> None:
    eigenvalues = SPECTRA[name]
    finite = 0
    for budget in (1, 3, 12, 20, 30):
        for seed in range(20):
            op = operator(eigenvalues, seed=seed % 3)
            found = lanczos(op, max_products=budget, rtol=1e-13, seed=seed)
            for estimate, true in (
                (found.estimate_largest(), eigenvalues.max()),
                (found.estimate_smallest(), eigenvalues.min()),
            ):
                low, high = estimate.interval()
                assert low - 1e-10 <= true <= high + 1e-10
                finite += high < np.inf and estimate.why is Why.BUDGET
    assert finite > 0 or name == "low rank"


def test_inner_values_of_unfinished_runs_are_known_to_no_distance() -> None:
    found = lanczos(operator(SPECTRA["indefinite"]), k=3, max_products=12, rtol=1e-10)
    assert [np.isinf(found.estimate_largest(i).residual) for i in range(3)] == [False, True, True]
