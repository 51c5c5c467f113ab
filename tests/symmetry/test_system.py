"""Exact elimination against the null space of a dense matrix."""

from __future__ import annotations

import time
from math import gcd

import numpy as np
import pytest

from flatmeter.symmetry.system import System


def matrix(vectors, unknowns):
    return np.array([[v.get(u, 0) for u in unknowns] for v in vectors], float).reshape(
        -1, len(unknowns)
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_systems(seed):
    rng = np.random.default_rng(seed)
    n, m = 12, int(rng.integers(2, 11))
    A = rng.integers(-2, 3, (m, n)) * (rng.random((m, n)) < 0.4)
    system = System()
    for row in A:
        system.total([(int(j), int(c)) for j, c in enumerate(row) if c])
    wanted = list(range(7))
    found = matrix(system.null_space(wanted), range(n))
    np.testing.assert_allclose(A @ found.T, 0, atol=1e-12)
    _, sizes, Vt = np.linalg.svd(A)
    kernel = Vt[int((sizes > 1e-9).sum()) :]
    expected = np.linalg.matrix_rank(kernel[:, :7]) if len(kernel) else 0
    assert np.linalg.matrix_rank(found[:, :7]) == len(found) == expected
    for vector in found:
        assert gcd(*vector[:7].astype(int).tolist()) == 1


def test_equal_and_zero_unknowns():
    system = System()
    system.equal("abc")
    system.total([("c", 1), ("d", 1), ("e", -1)])
    system.zero("e")
    assert system.null_space("abcd") == [{"a": 1, "b": 1, "c": 1, "d": -1}]


def test_fractions_become_integers():
    from fractions import Fraction

    system = System()
    system.total([("a", Fraction(2, 3)), ("b", Fraction(-1, 2))])
    assert system.null_space("ab") == [{"a": 3, "b": 4}]


def test_what_moves_alone_comes_out_alone():
    system = System()
    # Two weights with a free scale between and behind them.
    system.total([("w", 1), ("s", -1)])
    system.total([("s", 1), ("v", 1), ("t", -1)])
    moved = [{u: c for u, c in v.items() if u in "wv"} for v in system.null_space("wv")]
    assert sorted(moved, key=str) == [{"v": 1}, {"w": 1}]


def test_a_thousand_tensors_are_quick():
    system = System()
    names = []
    for layer in range(500):
        w, b = f"w{layer}", f"b{layer}"
        names += [w, b]
        system.total([(f"s{layer}", 1), (w, 1), (f"t{layer}", -1)])
        system.equal([b, f"t{layer}"])
        # A residual stream every other layer.
        system.equal([f"t{layer}", f"s{layer + 1}", *([f"s{layer - 1}"] if layer % 2 else [])])
    system.zero(["s0"])
    start = time.perf_counter()
    vectors = system.null_space(names)
    assert time.perf_counter() - start < 5
    assert len(vectors) == 250
