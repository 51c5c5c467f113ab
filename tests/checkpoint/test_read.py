"""Reading files of every format, and files that are not there."""

from __future__ import annotations

import argparse
import hashlib
import os

import pytest
import torch
from safetensors.torch import save_file

from flatmeter.checkpoint import read
from flatmeter.errors import ExitCode, UsageError


@pytest.mark.parametrize("kind", ["torch zip", "torch legacy", "safetensors"])
def test_every_format_gives_the_same(tmp_path, state, equal, kind):
    path = tmp_path / "c"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "torch zip")
    found = read(path)
    assert found.format == kind
    assert found.path == path
    assert equal(dict(found.tensors), state)
    assert list(found.tensors) == list(state) or kind == "safetensors"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.metadata == {}
    assert found.notes == ()


def test_parameters_become_plain_tensors(net, saved):
    found = read(saved(dict(net.named_parameters())))
    assert not any(t.requires_grad for t in found.tensors.values())


def test_other_peoples_words_are_not_taken_for_ours(state, saved):
    value = {"state_dict": state, "model_args": {"a": 1}, "loss": 0.25, "data": "x", "epoch": 3}
    words = read(saved(value)).metadata
    assert not {"model", "model_args", "data", "loss"} & set(words)
    assert words["stored"]["epoch"] == 3


def test_words_of_safetensors(tmp_path, state):
    save_file(state, tmp_path / "c", metadata={"format": "pt", "model": "os:system"})
    words = read(tmp_path / "c").metadata
    assert "model" not in words
    assert words["stored"]["format"] == "pt"


def test_missing_file_names_the_nearest(saved, state, tmp_path):
    saved(state, "epoch10.pt")
    with pytest.raises(UsageError) as caught:
        read(tmp_path / "epoc10.pt")
    assert caught.value.exit_code == ExitCode.USAGE
    assert "no such file" in str(caught.value)
    assert str(tmp_path / "epoch10.pt") in str(caught.value)


def test_a_link_to_nothing(tmp_path):
    (tmp_path / "c.pt").symlink_to("gone.pt")
    with pytest.raises(UsageError, match="a link to a file that is not there"):
        read(tmp_path / "c.pt")


def test_missing_folder(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "no" / "where.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(saved, state):
    path = saved(state)
    path.chmod(0)
    with pytest.raises(UsageError, match="cannot read it"):
        read(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_parsed_flags_and_numbers_in_tensors_are_plain_words(state, saved, legacy):
    """As timm and the reference scripts of PyTorch and torchvision store them."""
    flags = argparse.Namespace(model="resnet18", lr=0.1)
    value = {"state_dict": state, "args": flags, "best_acc1": torch.tensor(0.5)}
    words = read(saved(value, _use_new_zipfile_serialization=not legacy)).metadata["stored"]
    assert words == {"args": {"model": "resnet18", "lr": 0.1}, "best_acc1": 0.5}
