from itertools import combinations

import numpy as np
import pytest

from flatmeter.results.ranking import rank
from flatmeter.results.record import Row


def rows(*intervals):
    """Named a, b, …; each a value with the ends of its interval."""
    return [
        Row(chr(ord("a") + i), "", "m", "value", 1, value=v, ci_low=low, ci_high=high)
        for i, (low, v, high) in enumerate(intervals)
    ]


def test_smallest_first():
    found = rank(rows((3, 3, 3), (1, 1, 1), (2, 2, 2)))
    assert [(r.row.checkpoint, r.rank, r.rank_low, r.rank_high) for r in found.ranked] == [
        ("b", 1, 1, 1),
        ("c", 2, 2, 2),
        ("a", 3, 3, 3),
    ]
    assert found.groups == ()


def test_overlap_is_not_handed_on():
    """a and b, and b and c cannot be told apart; a and c can."""
    found = rank(rows((0, 1, 2), (1.5, 2.5, 3.5), (3, 4, 5), (6, 7, 8)))
    assert found.groups == (("a", "b"), ("b", "c"))
    assert [(r.rank_low, r.rank_high) for r in found.ranked] == [(1, 2), (1, 3), (2, 3), (4, 4)]
    assert [r.groups for r in found.ranked] == [(0,), (0, 1), (1,), ()]


def test_equal_values_share_a_rank():
    found = rank(rows((1, 1, 1), (1, 1, 1), (2, 2, 2)))
    assert [r.rank for r in found.ranked] == [1, 1, 3]
    assert found.groups == (("a", "b"),)


def test_an_unknown_error_may_be_any():
    found = rank(rows((1, 1, 1), (None, 2, None), (3, 3, 3)))
    assert [(r.rank_low, r.rank_high) for r in found.ranked] == [(1, 2), (1, 3), (2, 3)]
    assert found.groups == (("a", "b"), ("b", "c"))
    bound = rank(rows((1, 1, 1), (2, 2, None), (3, 3, 3)))
    assert bound.groups == (("b", "c"),)


@pytest.mark.parametrize("seed", range(5))
def test_groups_and_ranks_by_brute_force(seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=7)
    widths = generator.exponential(0.3, size=7)
    given = rows(*((v - w, v, v + w) for v, w in zip(values, widths, strict=True)))
    found = rank(given)
    apart = {
        (a.checkpoint, b.checkpoint): a.ci_high < b.ci_low or b.ci_high < a.ci_low
        for a in given
        for b in given
    }
    names = [r.checkpoint for r in given]
    together = [
        set(some)
        for size in range(2, 8)
        for some in combinations(names, size)
        if not any(apart[pair] for pair in combinations(some, 2))
    ]
    largest = [one for one in together if not any(one < other for other in together)]
    assert sorted(map(sorted, found.groups)) == sorted(map(sorted, largest))
    for one in found.ranked:
        assert one.rank_low == 1 + sum(r.ci_high < one.row.ci_low for r in given)
        assert one.rank_high == 7 - sum(r.ci_low > one.row.ci_high for r in given)


def test_none():
    assert rank([]).ranked == ()
