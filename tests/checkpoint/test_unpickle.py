"""Files that only running their code reads, where somebody asks for that."""

from __future__ import annotations

import collections
import os
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flatmeter.checkpoint import read
from flatmeter.checkpoint.unpickle import network_of
from flatmeter.errors import CheckpointRefused


class Named(collections.OrderedDict):
    """A mapping of a class of one's own."""


class Runs:
    """Unpickling one creates a file, or whatever it is told to do."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def trusted(path, **more):
    return read(path, trust_pickle=True, **more)


def test_what_can_be_read_as_data_is_not_run(saved, state, equal, tmp_path):
    found = trusted(saved({"state_dict": state}))
    assert equal(found.tensors, state)
    assert not found.ran
    assert found.module is None
    assert not found.notes


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["", "model"])
def test_a_whole_module(saved, net, state, equal, legacy, place):
    value = {place: net, "epoch": 3, "loss": nn.MSELoss()} if place else net
    path = saved(value, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointRefused, match="names code"):
        read(path)
    found = trusted(path)
    assert found.key == place
    assert equal(found.tensors, state)
    assert equal(found.module.state_dict(), state)
    assert "torch.nn.modules.container.Sequential" in found.ran
    assert "its code was run" in found.notes[-1]
    assert "Sequential" in found.notes[-1]


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel])
def test_wrappers_around_a_module_are_taken_off(saved, net, equal, wrap):
    found = trusted(saved(wrap(net)))
    assert type(found.module) is nn.Sequential
    assert equal(found.tensors, net.state_dict())


def test_the_network_is_that_of_the_weights_taken(saved, net, fresh, equal):
    path = saved({"model": net, "ema": fresh()})
    assert equal(trusted(path).module.state_dict(), net.state_dict())
    assert equal(trusted(path, ema=True).module.state_dict(), fresh().state_dict())
    assert trusted(saved({"model": net.state_dict(), "net": net})).module is None


def test_averaged_copies_are_frozen_as_a_whole_and_freed(saved, net):
    module, notes = network_of(trusted(saved(net.requires_grad_(False))))
    assert all(p.requires_grad for p in module.parameters())
    assert "frozen" in notes[-1]
    net[0].weight.requires_grad_(True)
    module, notes = network_of(trusted(saved(net)))
    assert [n for n, p in module.named_parameters() if p.requires_grad] == ["0.weight"]
    assert len(notes) == 1


def test_what_has_no_forward_is_no_network(saved):
    parameters = nn.ParameterDict({"weight": nn.Parameter(torch.ones(2, 2))})
    found = trusted(saved({"state_dict": parameters}))
    assert found.module is None
    assert list(found.tensors) == ["weight"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [4, 5])
def test_a_newer_protocol(saved, state, equal, protocol, legacy):
    path = saved(state, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    said = "bare pickle" if legacy else f"pickled by protocol {protocol}"
    with pytest.raises(CheckpointRefused, match=said):
        read(path)
    assert equal(trusted(path).tensors, state)


def test_a_bare_pickle(tmp_path, state, equal):
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(dict(state)))
    assert equal(trusted(tmp_path / "c.pkl").tensors, state)


def test_a_container_of_python_is_named(saved, state, equal):
    """Not called damaged: torch admits fewer names than one would think."""
    path = saved({"state_dict": state, "seen": collections.defaultdict(list)})
    with pytest.raises(CheckpointRefused, match=r"names code: collections\.defaultdict"):
        read(path)
    assert equal(trusted(path).tensors, state)


def test_of_a_program_the_weights_alone(tmp_path, net, state, equal):
    path = tmp_path / "c.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(net.eval(), torch.zeros(1, 3)), path)
    with pytest.raises(CheckpointRefused, match="TorchScript"):
        read(path)
    found = trusted(path)
    assert equal(found.tensors, state)
    assert found.module is None
    assert found.ran == ("a TorchScript program",)


def test_a_class_that_is_not_there(saved, monkeypatch):
    path = saved(Named(w=torch.ones(2, 2)))
    monkeypatch.delattr(f"{__name__}.Named")
    with pytest.raises(CheckpointRefused, match=r"Named cannot be imported") as caught:
        trusted(path)
    assert "PYTHONPATH" in caught.value.hint
    assert "state_dict()" in caught.value.hint


def test_a_class_of_the_script_that_saved_it(saved, monkeypatch):
    monkeypatch.setattr(Named, "__module__", "__main__")
    monkeypatch.setattr("__main__.Named", Named, raising=False)
    path = saved(Named(w=torch.ones(2, 2)))
    monkeypatch.delattr("__main__.Named")
    with pytest.raises(CheckpointRefused, match="defined in the script that saved it") as caught:
        trusted(path)
    assert "--model path/to/script.py" in caught.value.hint


@pytest.mark.parametrize(
    ("call", "said"),
    [((int, "a"), "ValueError: invalid literal"), ((exit, 5), "SystemExit: 5")],
)
def test_code_that_fails(saved, call, said):
    with pytest.raises(CheckpointRefused, match=f"its code failed when it was run: {said}"):
        trusted(saved({"x": Runs(*call)}))


def test_it_does_run(saved, tmp_path, state):
    """What the flag is for, and what it warns of."""
    path = saved({"state_dict": state, "x": Runs(os.mkdir, str(tmp_path / "ran"))})
    with pytest.raises(CheckpointRefused):
        read(path)
    assert not (tmp_path / "ran").exists()
    assert "posix.mkdir" in trusted(path).ran
    assert (tmp_path / "ran").exists()


def test_files_of_a_folder_are_not_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    torch.save({"w": torch.ones(2), "x": Runs(os.mkdir, str(tmp_path / "ran"))},
               tmp_path / "pytorch_model.bin")  # fmt: skip
    with pytest.raises(CheckpointRefused, match="files in a folder are not run"):
        trusted(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", [b"", b"\x80"])
def test_damaged_files_are_refused_all_the_same(tmp_path, saved, net, damage):
    path = saved(net)
    path.write_bytes(path.read_bytes()[:-200] + damage)
    with pytest.raises(CheckpointRefused, match="damaged"):
        trusted(path)
