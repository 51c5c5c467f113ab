"""The minimum over a group against closed forms and a general-purpose optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.optimize import minimize as scipy_minimize
from scipy.sparse import csr_matrix
from scipy.special import logsumexp, softmax

from flatmeter.symmetry.minimise import minimise


def chain(depth):
    """Scales of a chain of layers without biases: one up, the next down."""
    E = np.zeros((depth, depth - 1))
    for i in range(depth - 1):
        E[i, i], E[i + 1, i] = 1, -1
    return E


@pytest.mark.parametrize("depth", [2, 3, 8, 40])
def test_a_chain_without_biases(depth):
    T = 10.0 ** np.random.default_rng(depth).uniform(-8, 8, depth)
    found = minimise(T, chain(depth))
    assert found.value == pytest.approx(depth * np.exp(np.log(T).mean()), rel=1e-11)
    assert found.attained
    assert found.gradient_norm < 1e-11
    # At the minimum every layer has the same trace.
    np.testing.assert_allclose(T * np.exp(-2 * found.log_scales), found.value / depth, rtol=1e-10)


def test_two_layers_with_biases_and_the_oracle():
    T = np.array([2.238285532392, 0.858493613284, 0.407988924563, 0.188910222746])
    E = np.array([[1.0], [1.0], [-1.0], [0.0]])
    found = minimise(T, E)
    assert found.value == pytest.approx(2 * np.sqrt((T[0] + T[1]) * T[2]) + T[3], rel=1e-12)
    assert found.value == pytest.approx(2.436977475524, rel=1e-11)
    assert np.exp(found.log_scales[0]) == pytest.approx(1.659837090306, rel=1e-9)
    assert found.iterations <= 12


def test_rescaled_weights_give_the_same_minimum():
    rng = np.random.default_rng(1)
    E, T = chain(6), rng.uniform(0.1, 10, 6)
    before = minimise(T, E).value
    after = minimise(T * np.exp(-2 * E @ rng.normal(size=5, scale=5)), E).value
    assert after == pytest.approx(before, rel=1e-12)


def test_a_dead_layer_is_not_attained():
    found = minimise(np.array([0.0, 3.0, 1.0]), np.array([[1.0], [-1.0], [0.0]]))
    assert found.value == pytest.approx(1.0)
    assert not found.attained
    assert found.dropped == (1,)


def test_a_dead_bias_beside_a_live_weight_changes_nothing():
    found = minimise(np.array([2.0, 0.0, 3.0]), np.array([[1.0], [1.0], [-1.0]]))
    assert found.value == pytest.approx(2 * np.sqrt(6.0))
    assert found.attained
    assert found.dropped == ()


def test_a_direction_that_falls_for_ever():
    # The first two terms move alone; the last two against each other.
    E = np.array([[1.0, 0], [2.0, 1.0], [0, 1.0], [0, -1.0]])
    found = minimise(np.array([5.0, 7.0, 4.0, 9.0]), E)
    assert found.value == pytest.approx(2 * np.sqrt(36.0))
    assert found.dropped == (0, 1)
    assert not found.attained


def test_a_falling_term_drags_others_along_and_the_infimum_is_approached():
    E = np.array([[1, 0, 0], [-1, 0, 1], [0, 1, 0], [0, 1, 1], [0, 0, -1], [0, 0, 0]])
    T = np.array([4.0, 1.0, 5.0, 2.0, 3.0, 7.0])
    found = minimise(T, E)
    assert found.dropped == (2, 3)
    assert found.value == pytest.approx(3 * (4.0 * 1.0 * 3.0) ** (1 / 3) + 7.0, rel=1e-12)
    far = found.coordinates + 50 * np.array([0, 1, 0])
    assert np.sum(T * np.exp(-2 * E @ far)) == pytest.approx(found.value, rel=1e-12)


def test_no_group_and_no_weights():
    assert minimise(np.array([1.0, 2.0]), np.zeros((2, 0))).value == 3.0
    assert minimise(np.zeros(2), chain(2)).value == 0.0
    with pytest.raises(ValueError, match="negative"):
        minimise(np.array([1.0, -1.0]), chain(2))


def test_redundant_and_sparse_bases():
    T = np.array([3.0, 5.0, 7.0])
    once = minimise(T, chain(3)).value
    twice = np.hstack([chain(3), chain(3) @ np.array([[1.0], [2.0]])])
    assert minimise(T, twice).value == pytest.approx(once, rel=1e-12)
    assert minimise(T, csr_matrix(chain(3))).value == pytest.approx(once, rel=1e-12)


def test_a_large_sparse_problem():
    rng = np.random.default_rng(2)
    depth = 3000
    E = csr_matrix(chain(depth))
    T = 10.0 ** rng.uniform(-1, 1, depth)
    found = minimise(T, E)
    assert found.value == pytest.approx(depth * np.exp(np.log(T).mean()), rel=1e-6)


def instance(seed):
    """Small integers in E, weights over twelve decades, some of them zero."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(2, 14)), int(rng.integers(1, 6))
    E = rng.integers(-2, 3, (n, d)) * (rng.random((n, d)) < 0.6)
    T = 10.0 ** rng.uniform(-6, 6, n) * (rng.random(n) < 0.9)
    return T, E.astype(float)


def can_fall(T, E, term):
    """Some direction lowers this term and raises none: one linear programme for one term."""
    live = E[T > 0]
    bounds = [(-1, 1)] * E.shape[1]
    found = linprog(-E[term], A_ub=-live, b_ub=np.zeros(len(live)), bounds=bounds)
    return -found.fun > 1e-6


@pytest.mark.parametrize("seed", range(40))
def test_a_bound_from_below_proves_the_infimum(seed):
    """For shares p with ``Eᵀp = 0`` no u gives less than ``exp Σ p log(T/p)`` (Gibbs)."""
    T, E = instance(seed)
    found = minimise(T, E)
    falling = [j for j in range(len(T)) if T[j] > 0 and can_fall(T, E, j)]
    assert list(found.dropped) == falling
    assert found.attained == (not falling)
    kept = [j for j in range(len(T)) if T[j] > 0 and j not in falling]
    if not kept:
        assert found.value == 0
        return
    p = T[kept] * np.exp(-2 * found.log_scales[kept])
    assert p.sum() == pytest.approx(found.value, rel=1e-13)
    p /= p.sum()
    # Shares are exponentials of log-scales up to 30, which rounds them by 1e-14.
    assert np.abs(E[kept].T @ p).max() == pytest.approx(found.gradient_norm, abs=1e-13)
    assert found.gradient_norm <= 1e-11
    assert np.exp(p @ np.log(T[kept] / p)) == pytest.approx(found.value, rel=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_a_general_optimiser_finds_the_same(seed):
    T, E = instance(seed)
    E, T = np.vstack([E, -E]), np.tile(T + 1e-3, 2)  # every direction raises something

    def loss(u):
        terms = np.log(T) - 2 * E @ u
        return logsumexp(terms), -2 * E.T @ softmax(terms)

    start = np.zeros(E.shape[1])
    reference = scipy_minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-10})
    found = minimise(T, E)
    assert found.attained
    assert found.value == pytest.approx(np.exp(reference.fun), rel=1e-8)
    assert found.value <= np.exp(reference.fun) * (1 + 1e-12)
