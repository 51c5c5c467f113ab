"""Whatever a person calls data becomes a Dataset, or a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from flatmeter.data.dataset import Dataset
from flatmeter.data.pairs import as_dataset
from flatmeter.errors import DataError

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 3


def same(data: Dataset, x=X, y=Y) -> bool:
    return torch.equal(data.inputs, x) and torch.equal(data.targets, y)


@pytest.mark.parametrize(
    "value",
    [
        Dataset(X, Y, "own"),
        (X, Y),
        [X, Y],
        (X.numpy(), Y.numpy()),
        (X.numpy(), Y.to(torch.uint8).numpy()),
        (X.tolist(), Y.tolist()),
        {"inputs": X, "targets": Y},
        {"X": X, "y": Y, "extra": 3},
        {"images": X.numpy(), "labels": Y.numpy()},
        {"data": X, "label": Y},
        TensorDataset(X, Y),
        [(x, int(y)) for x, y in zip(X, Y, strict=True)][:8],
    ],
    ids=lambda value: type(value).__name__,
)
def test_forms(value):
    if isinstance(value, list) and len(value) == 8:
        value = Samples(value)
    assert same(as_dataset(value, name="here"))


class Samples:
    """A data set that is no subclass of PyTorch's."""

    def __init__(self, samples):
        self.samples = samples
        self.classes = ["a", "b", "c"]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def test_classes_of_a_data_set():
    data = as_dataset(Samples([(x, int(y)) for x, y in zip(X, Y, strict=True)]), name="here")
    assert data.classes == 3


@pytest.mark.parametrize("value", [(X, Y), TensorDataset(X, Y), Dataset(X, Y, "own")])
def test_subset_is_the_same_for_every_form(value):
    data = as_dataset(value, name="here", samples=4, seed=1)
    assert same(data, *as_rows(data))
    assert len(data) == 4
    assert data.fingerprint() == as_dataset((X, Y), name="h", samples=4, seed=1).fingerprint()
    assert any("4 of 8" in note for note in data.notes)


def as_rows(data):
    rows = [int((x == X).all(1).nonzero()) for x in data.inputs]
    assert rows == sorted(rows)
    return X[rows], Y[rows]


def test_values_stay_values():
    targets = torch.randn(8, 2)
    assert torch.equal(as_dataset((X, targets), name="here").targets, targets)


def test_half_precision_is_widened():
    assert as_dataset((X.half(), Y), name="here").inputs.dtype == torch.float32
    assert as_dataset((X.double(), Y), name="here").inputs.dtype == torch.float64


def test_gradients_are_cut_off():
    assert not as_dataset((X.clone().requires_grad_(), Y), name="here").inputs.requires_grad


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((X, Y, Y), "3 parts instead of two"),
        (DataLoader(TensorDataset(X, Y)), "loader.dataset"),
        (5, "int is not data"),
        ("text", "str is not data"),
        (X, "Tensor is not data"),
        ({"features": X, "y": Y}, "it has: features, y"),
        ({"x": X, "inputs": X, "y": Y}, "inputs could be x or inputs"),
        ({}, "it has: nothing"),
        ((X, Y[:3]), "8 inputs but 3 targets"),
        ((np.array(["a", "b"]), Y[:2]), "cannot be made a tensor"),
        ((object(), Y), "object is not a tensor"),
        (TensorDataset(X), "not a pair"),
    ],
)
def test_refusals(value, said):
    with pytest.raises(DataError) as caught:
        as_dataset(value, name="here")
    assert said in str(caught.value)


def test_a_subset_knows_the_size_of_its_source():
    x, y = torch.zeros(10, 2), torch.zeros(10)
    whole = as_dataset((x, y), name="pair")
    part = as_dataset(whole, name="pair", samples=4)
    assert (whole.source_size, whole.unseen) == (None, 0.0)
    assert (part.source_size, part.unseen) == (10, 0.6)
    assert as_dataset(part, name="pair", samples=2).source_size == 10
    lazily = as_dataset(torch.utils.data.TensorDataset(x, y), name="torch", samples=5)
    assert lazily.unseen == 0.5
