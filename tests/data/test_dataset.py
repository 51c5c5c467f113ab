"""What a Dataset accepts, and that its fingerprint sees every bit."""

from __future__ import annotations

import pytest
import torch

from flatmeter.data.dataset import Dataset
from flatmeter.errors import DataError

X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6)


def refused(inputs, targets) -> str:
    with pytest.raises(DataError) as caught:
        Dataset(inputs, targets, "here")
    assert "here" in str(caught.value)
    return str(caught.value)


def test_length():
    assert len(Dataset(X, Y, "here")) == 6


def test_lengths_that_differ():
    assert "6 inputs but 5 targets" in refused(X, Y[:5])


def test_nothing():
    assert "no samples" in refused(X[:0], Y[:0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_found(bad):
    x = X.clone()
    x[4, 1] = bad
    assert "inputs of sample 4" in refused(x, Y)
    assert "targets of sample 4" in refused(X, x)


@pytest.mark.parametrize(
    "inputs",
    [X.numpy(), X.to_sparse(), X.to(torch.complex64), torch.tensor(1.0), X.to(torch.uint8), X > 0],
    ids=["numpy", "sparse", "complex", "scalar", "uint8", "bool"],
)
def test_inputs_that_no_network_takes(inputs):
    refused(inputs, Y)


def test_fingerprint_depends_on_every_bit_and_nothing_else():
    base = Dataset(X, Y, "a").fingerprint()
    assert Dataset(X.clone(), Y.clone(), "b", classes=6).fingerprint() == base
    assert Dataset(X.T.contiguous().T, Y, "a").fingerprint() == base
    nudged = X.clone()
    nudged[5, 2] = torch.nextafter(nudged[5, 2], torch.tensor(9.0))
    others = {
        Dataset(nudged, Y, "a").fingerprint(),
        Dataset(X, Y.flip(0), "a").fingerprint(),
        Dataset(X.reshape(6, 1, 3), Y, "a").fingerprint(),
        Dataset(X.flip(0), Y, "a").fingerprint(),
        Dataset(X.double(), Y, "a").fingerprint(),
        base,
    }
    assert len(others) == 6


def test_fingerprint_of_dtypes_that_numpy_lacks():
    assert len(Dataset(X.bfloat16(), Y, "a").fingerprint()) == 64
