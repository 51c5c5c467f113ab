"""Every sample belongs to one process, whatever their number."""

import pytest

from flatmeter.ranks.group import Ranks
from flatmeter.risk.split import Split


def splits(n, size, processes, interact):
    return [Split(n, size, interact, Ranks(r, processes)) for r in range(processes)]


def samples(batches):
    return [i for start, stop in batches for i in range(start, stop)]


@pytest.mark.parametrize("interact", [False, True])
@pytest.mark.parametrize(("n", "size"), [(1, 4), (5, 2), (23, 4), (24, 24), (100, 7)])
@pytest.mark.parametrize("processes", [1, 2, 3, 30])
def test_all_samples_are_dealt_out_once(n, size, processes, interact):
    if interact and n < 2:
        return
    parts = splits(n, size, processes, interact)
    whole = Split(n, size, interact, Ranks())
    assert [i for part in parts for i in samples(part.own_batches)] == list(range(n))
    assert all(b - a <= size + interact for part in parts for a, b in part.own_batches)
    assert [part.held for part in parts] == [len(samples(part.own_batches)) for part in parts]
    assert parts[0].held == max(part.held for part in parts) or interact
    assert parts[0].held > 0
    assert all(part.batches == whole.batches == whole.own_batches for part in parts)
    if interact:
        assert [b for part in parts for b in part.own_batches] == whole.batches


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize("processes", [1, 2, 7])
def test_groups_depend_on_nothing_but_their_size(size, processes):
    parts = splits(23, size, processes, interact=False)
    groups = [group for part in parts for group in part.own_groups(5)]
    assert [samples(group) for group in groups] == [
        list(range(a, min(a + 5, 23))) for a in range(0, 23, 5)
    ]
    assert all(b - a <= size for group in groups for a, b in group)


def test_one_sample_has_no_statistics():
    assert Split(5, 2, True, Ranks()).batches == [(0, 2), (2, 5)]
