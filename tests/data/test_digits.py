"""The embedded digits: real, complete, licensed, and shipped."""

from __future__ import annotations

from importlib import resources

import pytest
import torch

from flatmeter.data.sources import load_data
from flatmeter.errors import DataError

#: Images of each digit among the 1,797, as UCI's description of the test set counts them.
COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_all_of_them():
    data = load_data("digits", samples=None)
    assert data.inputs.shape == (1797, 1, 8, 8)
    assert data.inputs.dtype == torch.float32
    assert data.targets.dtype == torch.int64
    assert data.classes == 10
    assert data.targets.bincount().tolist() == COUNTS


def test_pixels_are_sixteenths():
    inputs = load_data("digits", samples=None).inputs
    assert inputs.min() == 0
    assert inputs.max() == 1
    assert torch.equal(inputs * 16, (inputs * 16).round())


def test_the_first_image_is_the_zero_that_everybody_knows():
    first = load_data("digits", samples=None)
    assert first.targets[:10].tolist() == list(range(10))
    assert (first.inputs[0, 0, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert (first.inputs[0, 0, 7] * 16).tolist() == [0, 0, 6, 13, 10, 0, 0, 0]


def test_splits_are_the_beginning_and_the_end():
    whole, train, test = (load_data(f"digits{s}", samples=None) for s in ("", ":train", ":test"))
    assert (len(train), len(test)) == (1297, 500)
    assert torch.equal(torch.cat([train.inputs, test.inputs]), whole.inputs)
    assert torch.equal(torch.cat([train.targets, test.targets]), whole.targets)
    assert (train.name, test.name) == ("digits:train", "digits:test")


def test_unknown_split():
    with pytest.raises(DataError, match="digits:train"):
        load_data("digits:trian")


def test_licence_lies_beside_the_small_file():
    folder = resources.files("flatmeter.data")
    assert len(folder.joinpath("digits.npz").read_bytes()) < 60_000
    licence = folder.joinpath("digits.LICENSE.md").read_text(encoding="utf-8")
    assert "10.24432/C50P49" in licence
    assert "CC BY 4.0" in licence
