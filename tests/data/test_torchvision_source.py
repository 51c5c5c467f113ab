"""torchvision's data sets from files written here by hand, in the layout of their authors."""

from __future__ import annotations

import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch

from flatmeter.data.sources import load_data
from flatmeter.errors import DataError


def write_mnist(folder, name="MNIST", count=12):
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    pixels = {}
    for part, total in (("train", count), ("t10k", 4)):
        images = np.random.default_rng(total).integers(0, 256, (total, 28, 28), dtype=np.uint8)
        labels = (np.arange(total) % 10).astype(np.uint8)
        head = struct.pack(">IIII", 0x803, total, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">II", 0x801, total)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
        pixels[part] = torch.from_numpy(images).double()
    return pixels


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("MNIST", 0.1307, 0.3081), ("FashionMNIST", 0.2860, 0.3530), ("KMNIST", 0.1918, 0.3483)],
)
def test_the_family_of_mnist(tmp_path, name, mean, std):
    pixels = write_mnist(tmp_path, name)
    for split, part in (("", "train"), (":train", "train"), (":test", "t10k")):
        data = load_data(f"torchvision:{name}{split}@{tmp_path}")
        expected = (pixels[part] / 255 - mean) / std
        assert data.inputs.dtype == torch.float32
        assert data.inputs.shape[1:] == (1, 28, 28)
        torch.testing.assert_close(data.inputs[:, 0].double(), expected, rtol=1e-5, atol=1e-5)
        assert data.targets.tolist() == [i % 10 for i in range(len(data))]
        assert data.classes == 10


def test_the_normalisation_is_told(tmp_path):
    write_mnist(tmp_path)
    data = load_data(f"torchvision:MNIST:test@{tmp_path}")
    assert data.name == f"torchvision:MNIST:test@{tmp_path}"
    assert any("0.1307" in note and "0.3081" in note for note in data.notes)


def test_only_the_subset_is_decoded(tmp_path, monkeypatch):
    write_mnist(tmp_path, count=50)
    whole = load_data(f"torchvision:MNIST@{tmp_path}", samples=None)
    from torchvision.datasets import MNIST

    decoded = []
    original = MNIST.__getitem__
    monkeypatch.setattr(
        MNIST, "__getitem__", lambda self, i: decoded.append(i) or original(self, i)
    )
    part = load_data(f"torchvision:MNIST@{tmp_path}", samples=5, seed=2)
    assert len(decoded) == 5
    assert decoded == sorted(decoded)
    assert torch.equal(part.inputs, whole.inputs[decoded])


def write_cifar10(folder, monkeypatch):
    """The python version of CIFAR-10; its checksums are those of the real files, so replaced."""
    from flatmeter.import_torchvision import import_torchvision

    import_torchvision()
    from torchvision.datasets import CIFAR10

    base = folder / CIFAR10.base_folder
    base.mkdir()
    rng = np.random.default_rng(0)

    def write(name, value):
        content = pickle.dumps(value)
        (base / name).write_bytes(content)
        return hashlib.md5(content).hexdigest()

    def batch(name):
        data = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
        return data, write(name, {"data": data, "labels": [1, 7]})

    names = [f"data_batch_{i}" for i in range(1, 6)]
    batches = {name: batch(name) for name in [*names, "test_batch"]}
    meta = write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", [[n, batches[n][1]] for n in names])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", batches["test_batch"][1]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})
    return {name: data for name, (data, _) in batches.items()}


def test_cifar10(tmp_path, monkeypatch):
    batches = write_cifar10(tmp_path, monkeypatch)
    data = load_data(f"torchvision:CIFAR10@{tmp_path}")
    assert data.inputs.shape == (10, 3, 32, 32)
    assert data.targets.tolist() == [1, 7] * 5
    assert data.classes == 10
    pixels = torch.from_numpy(batches["data_batch_1"][1]).double().view(3, 32, 32) / 255
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).double().view(3, 1, 1)
    std = torch.tensor([0.2470, 0.2435, 0.2616]).double().view(3, 1, 1)
    torch.testing.assert_close(data.inputs[1].double(), (pixels - mean) / std, rtol=1e-5, atol=1e-5)
    assert len(load_data(f"torchvision:CIFAR10:test@{tmp_path}")) == 2


def refused(spec) -> str:
    with pytest.raises(DataError) as caught:
        load_data(spec)
    return str(caught.value)


def test_a_folder_without_the_data_says_how_to_get_them(tmp_path):
    said = refused(f"torchvision:CIFAR10@{tmp_path}")
    assert "download=True)" in said
    assert "You can use download" not in said


def test_missing_folder(tmp_path):
    assert "no such folder" in refused(f"torchvision:MNIST@{tmp_path}/nowhere")


def test_no_folder():
    assert "torchvision:CIFAR10@DIR" in refused("torchvision:CIFAR10")


def test_unknown_names(tmp_path):
    assert "did you mean CIFAR10" in refused(f"torchvision:cifar10@{tmp_path}")
    assert "did you mean FashionMNIST" in refused(f"torchvision:FashionMnsit@{tmp_path}")
    assert "it has: train, test" in refused(f"torchvision:MNIST:valid@{tmp_path}")


def test_damaged_files_are_told(tmp_path):
    write_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    raw.write_bytes(raw.read_bytes()[:1000])
    assert "cannot be read" in refused(f"torchvision:MNIST@{tmp_path}")


@pytest.mark.parametrize(
    "name", ["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "SVHN", "STL10"]
)
def test_every_data_set_that_is_promised_is_known(tmp_path, name):
    assert "cannot be read" in refused(f"torchvision:{name}@{tmp_path}")
