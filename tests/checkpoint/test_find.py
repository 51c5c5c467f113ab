"""The checkpoints in a folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flatmeter.checkpoint import checkpoints_in
from flatmeter.errors import ExitCode, UsageError

STATE = {"w": torch.zeros(2)}


def names(folder):
    return [path.relative_to(folder).as_posix() for path in checkpoints_in(folder)]


def test_by_bytes_in_natural_order(tmp_path):
    for name in ("epoch10.pt", "epoch2.pt", "best", "epoch1.ckpt"):
        torch.save(STATE, tmp_path / name)
    save_file(STATE, tmp_path / "epoch3.bin")
    (tmp_path / "log.pt").write_text("loss 0.5")
    (tmp_path / "notes.txt").write_text("hello")
    torch.save(STATE, tmp_path / ".hidden.pt")
    np.savez(tmp_path / "data.npz", x=np.zeros(2))
    found = ["best", "epoch1.ckpt", "epoch2.pt", "epoch3.bin", "epoch10.pt"]
    assert names(tmp_path) == found


def test_damaged_checkpoints_are_not_passed_over(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "b.pt").write_bytes(content[:200])
    assert names(tmp_path) == ["a.pt", "b.pt"]


def test_folders_inside_only_where_there_is_nothing_outside(tmp_path):
    for inner in ("run2", "run10", ".trash"):
        (tmp_path / inner).mkdir()
        torch.save(STATE, tmp_path / inner / "a.pt")
    assert names(tmp_path) == ["run2/a.pt", "run10/a.pt"]
    torch.save(STATE, tmp_path / "a.pt")
    assert names(tmp_path) == ["a.pt"]


def test_circle_of_links(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "run").mkdir()
    torch.save(STATE, tmp_path / "run" / "a.pt")
    assert names(tmp_path) == ["run/a.pt"]


@pytest.mark.parametrize("files", [(), ("a.txt",), ("x.npz",)])
def test_nothing(tmp_path, files):
    for name in files:
        if name.endswith("npz"):
            np.savez(tmp_path / name, x=np.zeros(2))
        else:
            (tmp_path / name).write_text("hello")
    with pytest.raises(UsageError) as caught:
        checkpoints_in(tmp_path)
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(tmp_path) in str(caught.value)
    assert ("NumPy" in str(caught.value)) == ("x.npz" in files)
