"""Folders as ``torch.distributed.checkpoint`` writes them, read by a table that is not trusted."""

from __future__ import annotations

import io
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from flatmeter.checkpoint import read
from flatmeter.errors import CheckpointRefused


@pytest.fixture
def folder(tmp_path, state):
    """What the library writes of a state, an optimiser and numbers."""
    optimiser = {"state": {0: {"momentum": torch.ones(4)}}, "param_groups": [{"lr": 0.1}]}
    value = {"model": state, "epoch": 3, "optim": optimiser}
    with pytest.warns(UserWarning, match="single process"):
        dcp.save(value, checkpoint_id=tmp_path / "dcp", no_dist=True)
    return tmp_path / "dcp"


def test_what_the_library_writes(folder, state, equal):
    found = read(folder)
    assert found.format == "distributed checkpoint"
    assert found.key == "model"
    assert equal(dict(found.tensors), state)
    again = read(folder)
    assert again.sha256 == found.sha256
    (folder / "notes.txt").write_text("mine")
    assert read(folder).sha256 == found.sha256


def test_what_is_not_read_is_said(folder):
    """Numbers and an optimiser's settings are pickled one by one; its state is no network."""
    (note,) = read(folder).notes
    assert note == "not read, as they are pickled and no tensors: epoch, optim.param_groups"


def test_a_state_saved_by_itself(tmp_path, state, equal):
    with pytest.warns(UserWarning, match="single process"):
        dcp.save(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    assert equal(dict(read(tmp_path / "dcp").tensors), state)


def by_hand(folder, parts, shape, **changed):
    """A folder of one tensor in parts, by their offsets."""
    folder.mkdir()
    index, chunks, content = {}, [], b""
    for offset, tensor in parts:
        stream = io.BytesIO()
        torch.save(tensor, stream)
        place = {"relative_path": "__0_0.distcp", "offset": len(content),
                 "length": stream.tell(), **changed}  # fmt: skip
        index[MetadataIndex("w", torch.Size(offset), len(chunks))] = _StorageInfo(**place)
        chunks.append(ChunkStorageMetadata(torch.Size(offset), tensor.shape))
        content += stream.getvalue()
    (folder / "__0_0.distcp").write_bytes(content)
    entry = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size(shape), chunks)
    table = Metadata({"w": entry}, planner_data=None, storage_data=index)
    (folder / ".metadata").write_bytes(pickle.dumps(table))
    return folder


def quarters(whole):
    return [((i, j), whole[i : i + 2, j : j + 3].clone()) for i in (0, 2) for j in (0, 3)]


def test_parts_are_put_together(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    found = read(by_hand(tmp_path / "f", quarters(whole), whole.shape))
    assert torch.equal(found.tensors["w"], whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda parts: parts[:-1], "missing"),
        (lambda parts: [*parts[:-1], (parts[0][0], parts[-1][1])], "missing"),
        (lambda parts: [*parts[:-1], ((3, 3), parts[-1][1])], "damaged"),
        (lambda parts: [], "missing"),
    ],
)
def test_parts_that_leave_a_hole(tmp_path, change, said):
    whole = torch.arange(24.0).reshape(4, 6)
    with pytest.raises(CheckpointRefused, match=said):
        read(by_hand(tmp_path / "f", change(quarters(whole)), whole.shape))


@pytest.mark.parametrize(
    "changed",
    [
        {"relative_path": "../outside"},
        {"relative_path": "/etc/passwd"},
        {"relative_path": "missing.distcp"},
        {"relative_path": ".."},
        {"relative_path": 5},
        {"offset": 1},
        {"offset": -1},
        {"length": 2**60},
        {"length": 0},
        {"transform_descriptors": ["zstd"]},
    ],
)
def test_places_that_are_not_there(tmp_path, changed):
    (tmp_path / "outside").write_bytes(b"")
    with pytest.raises(CheckpointRefused):
        read(by_hand(tmp_path / "f", [((0,), torch.ones(3))], (3,), **changed))


def test_a_size_that_nothing_holds(tmp_path):
    with pytest.raises(CheckpointRefused, match="more than the files hold"):
        read(by_hand(tmp_path / "f", [((0,), torch.ones(3))], (2**40,)))


def test_a_table_that_names_code(folder):
    (folder / ".metadata").write_bytes(b"cos\nsystem\n(Vtrue\ntR.")
    with pytest.raises(CheckpointRefused, match=r"names code: os\.system"):
        read(folder)
