"""``flatmeter.save`` writes an ordinary checkpoint, whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import flatmeter
from flatmeter.checkpoint import read, save
from flatmeter.errors import CheckpointRefused, FlatmeterError, UsageError


def test_plain_torch_reads_it(net, state, tmp_path, equal):
    path = flatmeter.save(
        tmp_path / "a.pt",
        net,
        name="zoo:mlp",
        args={"hidden": [4], "norm": "batch"},
        data="digits:train",
        loss={"name": "cross_entropy", "label_smoothing": 0.1},
        lr=0.1,
    )
    assert path == tmp_path / "a.pt"
    value = torch.load(path, weights_only=True)
    assert set(value) == {"flatmeter", "state_dict"}
    assert equal(value["state_dict"], state)
    words = value["flatmeter"]
    assert words["format"] == 1
    assert words["model"] == "zoo:mlp"
    assert words["model_args"] == {"hidden": [4], "norm": "batch"}
    assert words["data"] == "digits:train"
    assert words["loss"] == {"name": "cross_entropy", "label_smoothing": 0.1}
    assert words["lr"] == 0.1


def test_read_gives_it_back(net, state, tmp_path, equal):
    path = save(tmp_path / "a.pt", net, name="zoo:mlp", data="digits", epoch=9)
    found = read(path)
    assert found.format == "torch zip"
    assert equal(found.tensors, state)
    assert found.metadata["model"] == "zoo:mlp"
    assert found.metadata["data"] == "digits"
    assert found.metadata["epoch"] == 9
    assert found.metadata.get("loss") is None
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.notes == ()


class Wrapper(nn.Module):
    """As torch.compile names its network."""

    def __init__(self, inner):
        super().__init__()
        self._orig_mod = inner


@pytest.mark.parametrize("wrap", [nn.DataParallel, Wrapper, lambda m: Wrapper(nn.DataParallel(m))])
def test_wrappers_leave_no_trace(net, state, tmp_path, equal, wrap):
    save(tmp_path / "a.pt", wrap(net), name="x")
    assert equal(torch.load(tmp_path / "a.pt", weights_only=True)["state_dict"], state)


def test_a_layer_called_module_keeps_its_name(tmp_path):
    model = nn.Module()
    model.module = nn.Linear(2, 2)
    model.head = nn.Linear(2, 2)
    save(tmp_path / "a.pt", model, name="x")
    names = set(torch.load(tmp_path / "a.pt", weights_only=True)["state_dict"])
    assert names == set(model.state_dict())


def test_tied_weights_are_stored_once(tmp_path):
    model = nn.Sequential(nn.Linear(300, 300, bias=False), nn.Linear(300, 300, bias=False))
    model[1].weight = model[0].weight
    save(tmp_path / "a.pt", model, name="x")
    assert (tmp_path / "a.pt").stat().st_size < 1.5 * 4 * 300 * 300
    assert len(read(tmp_path / "a.pt").tensors) == 2


def test_a_view_does_not_drag_its_storage_along(tmp_path):
    model = nn.Linear(4, 4, bias=False)
    model.weight = nn.Parameter(torch.zeros(10_000, 4)[:4])
    save(tmp_path / "a.pt", model, name="x")
    assert (tmp_path / "a.pt").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (torch.tensor(2.0), 2.0),
        ((1, 2), [1, 2]),
        (Path("a/b"), "a/b"),
        ({"x": [np.float32(1.0)]}, {"x": [1.0]}),
        (None, None),
        (True, True),
    ],
)
def test_plain_values(net, tmp_path, value, kept):
    save(tmp_path / "a.pt", net, name="x", more=value)
    found = torch.load(tmp_path / "a.pt", weights_only=True)["flatmeter"]["more"]
    assert found == kept
    assert type(found) is type(kept)


def test_values_that_cannot_be_kept(net, tmp_path):
    with pytest.raises(UsageError, match="function"):
        save(tmp_path / "a.pt", net, name="x", schedule=lambda: 0)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_file(net, tmp_path, monkeypatch):
    path = save(tmp_path / "a.pt", net, name="x")
    before = path.read_bytes()

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FlatmeterError, match="No space left"):
        save(path, net, name="y")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file(net, tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(FlatmeterError, match="cannot write"):
        save(tmp_path / "f" / "a.pt", net, name="x")


@pytest.mark.parametrize(
    "entry",
    [
        {"format": 2, "model": "zoo:mlp"},
        {"model": "zoo:mlp"},
        {"format": "1"},
        "text",
        {"format": 1, "model": 5},
        {"format": 1, "model": "x", "model_args": [1]},
        {"format": 1, "model": "x", "data": {"a": 1}},
    ],
)
def test_words_of_another_kind_are_refused(state, saved, entry):
    with pytest.raises(CheckpointRefused):
        read(saved({"flatmeter": entry, "state_dict": state}))
