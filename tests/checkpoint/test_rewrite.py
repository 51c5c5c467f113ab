"""A file written again with other weights: all else stays as it was."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from flatmeter.checkpoint import read
from flatmeter.checkpoint.rewrite import rewrite
from flatmeter.errors import CheckpointRefused, FlatmeterError


def weights():
    torch.manual_seed(0)
    return OrderedDict(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).state_dict())


def again(source, target, new, used=None, **options):
    """Rewrites, and returns the notes and what the new file holds."""
    checkpoint = read(source, **options)
    notes = rewrite(checkpoint, new, used or set(checkpoint.tensors), target)
    return notes, None if target.suffix == ".safetensors" else torch.load(target)


def test_all_but_the_weights_is_kept(tmp_path):
    state = weights()
    state._metadata = OrderedDict({"": {"version": 7}})
    content = {"epoch": 3, "state_dict": state, "args": {"lr": [0.1]}, "rng": torch.arange(3)}
    torch.save(content, tmp_path / "a.pt")
    notes, found = again(tmp_path / "a.pt", tmp_path / "b.pt", {"0.weight": torch.zeros(3, 3)})
    assert notes == ()
    assert (found["epoch"], found["args"], found["rng"].tolist()) == (3, {"lr": [0.1]}, [0, 1, 2])
    assert list(found["state_dict"]) == list(state)
    assert found["state_dict"]._metadata == {"": {"version": 7}}
    assert found["state_dict"]["1.num_batches_tracked"].dtype == torch.int64
    for name, tensor in state.items():
        same = torch.equal(found["state_dict"][name], tensor)
        assert same is (name != "0.weight"), name
    assert torch.equal(torch.load(tmp_path / "a.pt")["state_dict"]["0.weight"], state["0.weight"])


def test_what_belongs_to_the_old_weights_is_left_out_and_told(tmp_path):
    net = nn.Linear(3, 3)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    content = {
        "model": weights(),
        "model_ema": {"module": weights()},
        "optimizer": optimiser.state_dict(),
        "optimizer_states": [optimiser.state_dict()],
        "statistics": {"mean": torch.zeros(3)},
    }
    torch.save(content, tmp_path / "a.pt")
    notes, found = again(tmp_path / "a.pt", tmp_path / "b.pt", {"0.weight": torch.zeros(3, 3)})
    (note,) = notes
    assert note.endswith(
        "since they belong to the weights as they were: model_ema, optimizer, optimizer_states"
    )
    assert list(found) == ["model", "statistics"]


def test_weights_deep_inside_are_found_by_their_key(tmp_path):
    content = {"a.b": {"net": weights(), "step": 1}, "other": 2}
    torch.save(content, tmp_path / "a.pt")
    new = {"0.bias": torch.ones(3)}
    notes, found = again(tmp_path / "a.pt", tmp_path / "b.pt", new, key="a.b.net")
    assert notes == ()
    assert (found["a.b"]["step"], found["other"]) == (1, 2)
    assert found["a.b"]["net"]["0.bias"].tolist() == [1, 1, 1]


def test_matrices_of_another_network_in_the_same_mapping_are_left_out(tmp_path):
    torch.save({**weights(), "ema.0.weight": torch.ones(3, 3)}, tmp_path / "a.pt")
    used = set(weights())
    notes, found = again(tmp_path / "a.pt", tmp_path / "b.pt", {"0.bias": torch.ones(3)}, used)
    assert notes[0].endswith("ema.0.weight")
    assert set(found) == used


def test_tied_tensors_stay_one(tmp_path):
    tensor = torch.zeros(4, 4)
    torch.save({"a": tensor, "b": tensor}, tmp_path / "a.pt")
    new = torch.ones(4, 4)
    _, found = again(tmp_path / "a.pt", tmp_path / "b.pt", {"a": new, "b": new})
    assert found["a"].data_ptr() == found["b"].data_ptr()
    again(tmp_path / "a.pt", tmp_path / "b.safetensors", {"a": new, "b": new})
    assert read(tmp_path / "b.safetensors").tensors["b"].tolist() == new.tolist()


def test_safetensors_keep_their_metadata(tmp_path):
    save_file(weights(), tmp_path / "a.safetensors", metadata={"format": "pt", "run": "7"})
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    notes, _ = again(source, target, {"0.weight": torch.zeros(3, 3)})
    assert notes == ()
    with safe_open(target, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "run": "7"}
        assert set(file.keys()) == set(weights())
        assert not file.get_tensor("0.weight").any()
    notes, found = again(source, tmp_path / "b.pt", {"0.weight": torch.zeros(3, 3)})
    assert notes == ("left out, metadata of safetensors: run",)
    assert list(found) == list(read(source).tensors)


def test_what_safetensors_cannot_hold_is_told(tmp_path):
    torch.save({"epoch": 3, "state_dict": {**weights(), "extra": 1}}, tmp_path / "a.pt")
    notes, _ = again(tmp_path / "a.pt", tmp_path / "b.safetensors", {"0.bias": torch.ones(3)})
    assert notes == ("left out, as safetensors hold tensors alone: epoch, extra",)
    assert read(tmp_path / "b.safetensors").tensors["0.bias"].tolist() == [1, 1, 1]


def test_a_file_that_has_changed_is_refused(tmp_path):
    torch.save(weights(), tmp_path / "a.pt")
    checkpoint = read(tmp_path / "a.pt")
    torch.save({**weights(), "0.bias": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointRefused, match="changed"):
        rewrite(checkpoint, {}, set(checkpoint.tensors), tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize("name", ["b.pt", "b.safetensors"])
def test_a_file_that_cannot_be_written_is_not_half_there(tmp_path, name):
    torch.save(weights(), tmp_path / "a.pt")
    checkpoint = read(tmp_path / "a.pt")
    (tmp_path / "file").touch()
    with pytest.raises(FlatmeterError, match="cannot write the checkpoint"):
        rewrite(checkpoint, {}, set(checkpoint.tensors), tmp_path / "file" / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "file"]
