"""Seeded subsets: without replacement, in the source's order, independent of everything else."""

from __future__ import annotations

import pytest
import torch

from flatmeter.data.sources import load_data
from flatmeter.data.subset import gather, subset_indices, subset_note
from flatmeter.errors import DataError, UsageError


@pytest.mark.parametrize("samples", [1, 7, 99])
def test_distinct_and_ascending(samples):
    found = subset_indices(100, samples, seed=3)
    assert len(found) == samples
    assert (found.diff() > 0).all()
    assert 0 <= found.min() <= found.max() < 100


@pytest.mark.parametrize("samples", [None, 100, 4096])
def test_all(samples):
    assert subset_indices(100, samples, seed=3).tolist() == list(range(100))


def test_depends_on_the_seed_alone():
    torch.manual_seed(0)
    first = subset_indices(1000, 50, seed=1)
    torch.manual_seed(1)
    assert torch.equal(first, subset_indices(1000, 50, seed=1))
    assert not torch.equal(first, subset_indices(1000, 50, seed=2))


def test_every_sample_is_as_likely():
    counts = torch.zeros(20)
    for seed in range(2000):
        counts[subset_indices(20, 5, seed)] += 1
    # Binomial with mean 500 and standard deviation 19.4.
    assert (counts - 500).abs().max() < 5 * 19.4


@pytest.mark.parametrize("samples", [0, -1])
def test_too_few(samples):
    with pytest.raises(UsageError):
        subset_indices(10, samples, seed=0)


def test_note():
    assert subset_note(10, 10, 0) == ()
    assert "5 of 10" in subset_note(10, 5, 0)[0]


def test_subset_of_a_source_is_part_of_it():
    whole = load_data("digits", samples=None)
    part = load_data("digits", samples=100, seed=4)
    rows = subset_indices(1797, 100, 4)
    assert torch.equal(part.inputs, whole.inputs[rows])
    assert torch.equal(part.targets, whole.targets[rows])
    assert part.fingerprint() == load_data("digits", samples=100, seed=4).fingerprint()


class Counting:
    """Ten samples that remember which of them were read."""

    def __init__(self, samples=None):
        self.samples = samples or [(torch.full((2,), float(i)), torch.tensor(i)) for i in range(10)]
        self.read = []

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.read.append(index)
        return self.samples[index]


def test_only_wanted_samples_are_read_once():
    source = Counting()
    x, y = gather(source, [2, 5, 7], "here", torch.as_tensor)
    assert source.read == [2, 5, 7]
    assert y.tolist() == [2, 5, 7]
    assert x[:, 0].tolist() == [2.0, 5.0, 7.0]


def test_a_sample_of_another_shape_is_named():
    source = Counting([(torch.zeros(2), 0), (torch.zeros(3), 1)])
    with pytest.raises(DataError, match=r"the input of sample 1 is \[3\]"):
        gather(source, [0, 1], "here", torch.as_tensor)


def test_a_sample_that_is_no_pair_is_named():
    with pytest.raises(DataError, match="sample 0 is Tensor"):
        gather(Counting([torch.zeros(2)]), [0], "here", torch.as_tensor)


def test_a_sample_that_fails_is_named():
    with pytest.raises(DataError, match="sample 99 cannot be read: IndexError"):
        gather(Counting(), [99], "here", torch.as_tensor)
