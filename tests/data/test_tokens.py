"""Tokens in files: alone, with labels, with masks and types."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flatmeter.data.pairs import as_dataset
from flatmeter.data.tensor_file import load_tensor_file
from flatmeter.errors import DataError

IDS = torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(4, 6, dtype=torch.long)
MASK[2, 4:] = 0


def stored(value, path):
    torch.save(value, path)
    return load_tensor_file(path)


def archived(path, **arrays):
    np.savez(path, **arrays)
    return load_tensor_file(path)


def test_tokens_alone_are_their_own_targets(tmp_path):
    ways = [
        stored(IDS, tmp_path / "a.pt"),
        stored({"input_ids": IDS.to(torch.int32)}, tmp_path / "b.pt"),
        stored({"inputs": IDS, "note": "text"}, tmp_path / "c.pt"),
        archived(tmp_path / "d.npz", input_ids=IDS.numpy()),
        archived(tmp_path / "e.npz", inputs=IDS.numpy().astype(np.uint8)),
        as_dataset(IDS, name="here"),
        as_dataset({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, name="here"),
        as_dataset({"input_ids": IDS, "token_type_ids": torch.zeros_like(IDS)}, name="here"),
    ]
    for data in ways:
        assert torch.equal(data.inputs, IDS)
        assert torch.equal(data.targets, IDS)
        assert (data.inputs.dtype, data.loss, data.parts) == (torch.int64, "causal_lm", ())


def test_a_mask_is_stacked_and_what_it_leaves_out_does_not_count():
    data = as_dataset({"input_ids": IDS, "attention_mask": MASK.bool()}, name="here")
    assert torch.equal(data.inputs, torch.stack([IDS, MASK], 1))
    assert torch.equal(data.targets, IDS.masked_fill(MASK == 0, -100))
    assert data.parts == ("input_ids", "attention_mask")


def test_types_are_stacked_after_the_mask():
    types = torch.zeros_like(IDS)
    types[:, 3:] = 1
    labels = np.array([0, 1, 2, 0])
    data = as_dataset({"input_ids": IDS, "token_type_ids": types, "labels": labels}, name="here")
    assert torch.equal(data.inputs, torch.stack([IDS, torch.ones_like(IDS), types], 1))
    assert data.targets.tolist() == [0, 1, 2, 0]
    assert (data.loss, len(data.parts)) == (None, 3)
    part = as_dataset(data, name="here", samples=2)
    assert (len(part), part.parts) == (2, data.parts)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"input_ids": IDS, "attention_mask": MASK[:, :5]}, r"attention_mask are int64 \[4, 5\]"),
        ({"input_ids": IDS.float()}, r"input_ids are float32 \[4, 6\], not integers \[n, T\]"),
        ({"input_ids": IDS[0]}, r"input_ids are int64 \[6\]"),
        ({"inputs": IDS.float()}, "no entry holds targets"),
        (IDS[0], "Tensor is not data"),
        (IDS.bool(), "Tensor is not data"),
    ],
)
def test_what_are_no_tokens(value, words):
    with pytest.raises(DataError, match=words):
        as_dataset(value, name="here")
