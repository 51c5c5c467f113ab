"""Formats are told by their bytes; names mean nothing."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flatmeter.checkpoint import Format, read, recognise
from flatmeter.checkpoint.formats import CONVERSIONS
from flatmeter.errors import CheckpointRefused, ExitCode

TENSORS = {"weight": torch.zeros(2, 2)}


def torch_zip(path):
    torch.save(TENSORS, path)


def torch_legacy(path):
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)


def safetensors(path):
    save_file(TENSORS, path)


def torchscript(path):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))


def torch_tar(path):
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())


def torch_export(path):
    net = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(net.weight)
    stream = io.BytesIO()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 2),)), stream)
    path.write_bytes(stream.getvalue())


def bare_pickle(path):
    path.write_bytes(pickle.dumps({"weight": [1.0]}))


def numpy_archive(path):
    with path.open("wb") as file:
        np.savez(file, weight=np.zeros(2))


def numpy_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(2))


def hdf5(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))


def keras(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "{}")


def gguf(path):
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))


def onnx(path):
    path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.9.0:\x10" + bytes(16))


FILES = {
    torch_zip: Format.TORCH_ZIP,
    torch_legacy: Format.TORCH_LEGACY,
    safetensors: Format.SAFETENSORS,
    torchscript: Format.TORCHSCRIPT,
    torch_tar: Format.TORCH_TAR,
    torch_export: Format.TORCH_EXPORT,
    bare_pickle: Format.PICKLE,
    numpy_archive: Format.NUMPY,
    numpy_array: Format.NUMPY,
    hdf5: Format.HDF5,
    keras: Format.KERAS,
    gguf: Format.GGUF,
    onnx: Format.ONNX,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", list(FILES), ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["file", "m.pt", "m.safetensors", "m.txt"])
def test_files(tmp_path, write, name):
    path = tmp_path / name
    write(path)
    found = recognise(path)
    assert found is FILES[write]
    if found in CONVERSIONS:
        with pytest.raises(CheckpointRefused) as caught:
            read(path)
        assert caught.value.exit_code == ExitCode.REFUSED == 3
        assert found.value in caught.value.message
        assert caught.value.hint
        assert "FILE" not in caught.value.hint
    else:
        assert read(path).format == found.value
        assert torch.equal(read(path).tensors["weight"], TENSORS["weight"])


def touch(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((".metadata", "__0_0.distcp"), Format.DISTRIBUTED),
        (("zero_to_fp32.py", "latest"), Format.DEEPSPEED),
        (("mp_rank_00_model_states.pt",), Format.DEEPSPEED),
        (("adapter_config.json", "adapter_model.safetensors"), Format.ADAPTER),
        (("config.json", "notes.txt"), None),
        (("config.json", "model.safetensors"), None),
        ((), None),
    ],
)
def test_folders(tmp_path, names, expected):
    touch(tmp_path / "f", *names)
    assert recognise(tmp_path / "f") is expected
    with pytest.raises(CheckpointRefused) as caught:
        read(tmp_path / "f")
    if expected in CONVERSIONS:
        assert expected.value in str(caught.value)


def test_hugging_face_folder(tmp_path):
    touch(tmp_path / "f", "model.safetensors")
    (tmp_path / "f" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert recognise(tmp_path / "f") is Format.HUGGING_FACE
    with pytest.raises(CheckpointRefused, match=r"model\.safetensors"):
        read(tmp_path / "f")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"epoch,loss\n1,0.5\n", "text"),
        ("größer als λ\n".encode() * 100, "text"),
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"\n  <html><body>sign in</body></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1f\x8b\x08\x00" + bytes(40), "compressed"),
        (bytes(1000), "zeros"),
        (bytes.fromhex("fedcba9876543210") * 20, "fe dc ba 98"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, content, said):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert recognise(path) is None
    with pytest.raises(CheckpointRefused) as caught:
        read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_zip_of_something_else(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert recognise(path) is None
    with pytest.raises(CheckpointRefused, match="zip archive"):
        read(path)


def test_random_bytes_are_never_a_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "m.pt"
    for size in [1, 2, 3, 7, 8, 9, 10, 63, 300, 600] * 30:
        path.write_bytes(rng.integers(0, 256, size, dtype=np.uint8).tobytes())
        with pytest.raises(CheckpointRefused):
            read(path)
