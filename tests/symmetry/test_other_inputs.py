"""How many samples are verified on, and which others."""

from __future__ import annotations

import pytest
import torch

from flatmeter.symmetry.other_inputs import enough_samples, other_inputs


@pytest.mark.parametrize(
    ("sample", "count"),
    [
        (torch.zeros(8, 8), 16),
        (torch.zeros(3, 32, 32), 16),
        (torch.zeros(3, 64, 64), 5),
        (torch.zeros(3, 224, 224), 2),
        (torch.zeros(128, dtype=torch.long), 8),
        (torch.zeros(1024, dtype=torch.long), 2),
    ],
)
def test_small_samples_are_many_and_large_ones_few(sample, count):
    assert enough_samples(sample) == count


def test_others_have_the_same_shape_and_differ():
    x = torch.randn(4, 3)
    others = other_inputs(lambda _: None, x)
    assert len(others) >= 4
    assert all(o.shape == x.shape and not torch.equal(o, x) for o in others)


def test_tokens_are_only_moved():
    x = torch.randint(50, (4, 6))
    for other in other_inputs(lambda _: None, x):
        assert torch.equal(other.flatten().sort().values, x.flatten().sort().values)


def test_what_the_network_does_not_take_is_left_out():
    def only_positive(x):
        if (x < 0).any():
            raise ValueError("negative")

    x = torch.rand(4, 3) + 1
    others = other_inputs(only_positive, x)
    assert 0 < len(others) < 6
    assert all((o >= 0).all() for o in others)
