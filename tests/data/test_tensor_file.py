"""Data from .pt and .npz files, friendly and hostile."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import TensorDataset

from flatmeter.data.sources import load_data
from flatmeter.errors import DataError

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 3


def refused(path) -> str:
    with pytest.raises(DataError) as caught:
        load_data(str(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        {"inputs": X, "targets": Y},
        {"x": X, "y": Y},
        {"images": X, "labels": Y.to(torch.uint8)},
        {"data": X, "targets": Y},
        (X, Y),
        [X, Y],
    ],
)
def test_pt(tmp_path, value):
    path = tmp_path / "d.pt"
    torch.save(value, path)
    data = load_data(str(path))
    assert torch.equal(data.inputs, X)
    assert torch.equal(data.targets, Y)
    assert data.targets.dtype == torch.int64
    assert data.name == str(path)


@pytest.mark.parametrize("names", [("inputs", "targets"), ("x", "y"), ("images", "labels")])
def test_npz(tmp_path, names):
    path = tmp_path / "d.npz"
    np.savez(path, **dict(zip(names, (X.numpy(), Y.numpy()), strict=True)))
    data = load_data(str(path), samples=5)
    assert len(data) == 5
    assert data.inputs.dtype == torch.float32


def test_missing(tmp_path):
    assert "no such file" in refused(tmp_path / "d.pt")
    assert "no such file" in refused(tmp_path / "d.npz")


@pytest.mark.parametrize("name", ["d.pt", "d.npz"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"PK\x03\x04" + b"\x07" * 50])
def test_garbage(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("name", ["d.pt", "d.npz"])
def test_truncated(tmp_path, name):
    path = tmp_path / name
    if name == "d.pt":
        torch.save((X, Y), path)
    else:
        np.savez(path, x=X.numpy(), y=Y.numpy())
    content = path.read_bytes()
    for keep in (0.2, 0.6, 0.95):
        path.write_bytes(content[: int(keep * len(content))])
        refused(path)


def test_a_cut_archive_says_so_and_what_to_do(tmp_path):
    np.savez(tmp_path / "d.npz", x=X.numpy(), y=Y.numpy())
    content = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(content[:200])
    text = refused(tmp_path / "d.npz")
    assert "the archive is cut short\ncopy it again" in text
    assert "numpy.savez('d.npz', inputs=x, targets=y)" in text


def test_a_damaged_archive(tmp_path):
    np.savez_compressed(tmp_path / "d.npz", x=X.numpy(), y=Y.numpy())
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[80:120] = bytes(40)
    (tmp_path / "d.npz").write_bytes(content)
    assert "the archive is damaged" in refused(tmp_path / "d.npz")


@pytest.mark.parametrize("name", ["dd.npz", "d.pt", "d_npz.npz"])
def test_the_nearest_file_is_named(tmp_path, name):
    np.savez(tmp_path / "d.npz", x=X.numpy(), y=Y.numpy())
    assert f"did you mean {tmp_path / 'd.npz'}?" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["d", "d.csv", "d.npy", "d.npz.bak"])
def test_the_file_of_another_ending_is_named(tmp_path, monkeypatch, name):
    np.savez(tmp_path / "d.npz", x=X.numpy(), y=Y.numpy())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_data(name)
    assert "did you mean d.npz?" in str(caught.value)


def test_tensors_are_recognised_by_bytes(tmp_path):
    save_file({"inputs": X, "targets": Y}, tmp_path / "d.pt")
    assert torch.equal(load_data(str(tmp_path / "d.pt")).inputs, X)


def test_entries_that_are_there_are_listed(tmp_path):
    np.savez(tmp_path / "d.npz", features=X.numpy(), y=Y.numpy())
    assert "it has: features, y" in refused(tmp_path / "d.npz")


def test_a_bare_tensor_says_what_to_save(tmp_path):
    torch.save(X, tmp_path / "d.pt")
    assert "{'inputs': x, 'targets': y}" in refused(tmp_path / "d.pt")


def test_a_single_array(tmp_path):
    with (tmp_path / "d.npz").open("wb") as file:
        np.save(file, X.numpy())
    assert "single array" in refused(tmp_path / "d.npz")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_is_not_run(tmp_path):
    witness = tmp_path / "witness"
    torch.save({"inputs": X, "targets": Y, "more": Bomb(witness)}, tmp_path / "d.pt")
    refused(tmp_path / "d.pt")
    np.savez(tmp_path / "d.npz", inputs=np.array([Bomb(witness)], dtype=object), targets=[1])
    refused(tmp_path / "d.npz")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"x": X, "y": Y, "path": PurePosixPath("a")}, "names code: pathlib.PurePosixPath"),
        (TensorDataset(X, Y), "names code: torch.utils.data.dataset.TensorDataset"),
        ({"x": X.numpy(), "y": Y}, "numpy.ndarray"),
    ],
)
def test_what_is_not_admitted_is_named_in_our_own_words(tmp_path, capfd, value, said):
    torch.save(value, tmp_path / "d.pt")
    text = refused(tmp_path / "d.pt")
    assert said in text
    assert "torch.save({'inputs': x, 'targets': y}, 'd.pt')" in text
    assert "weights_only" not in text
    assert capfd.readouterr() == ("", "")


def test_values_that_are_not_finite(tmp_path):
    x = X.clone()
    x[2] = float("nan")
    torch.save((x, Y), tmp_path / "d.pt")
    assert "sample 2" in refused(tmp_path / "d.pt")
