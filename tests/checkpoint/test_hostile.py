"""Files made to mislead: refused in a sentence, and nothing in them runs."""

from __future__ import annotations

import collections
import json
import os
import pickle
import struct
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save
from torch import nn

from flatmeter.checkpoint import Format, read, recognise
from flatmeter.errors import CheckpointRefused, ExitCode


class Runs:
    """Unpickling one creates a file."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


def refused(path) -> CheckpointRefused:
    with pytest.raises(CheckpointRefused) as caught:
        read(path)
    error = caught.value
    assert error.exit_code == ExitCode.REFUSED
    assert str(path) in str(error)
    assert len(error.message) < 400
    return error


@pytest.mark.parametrize(
    ("legacy", "protocol"), [(False, 2), (False, 3), (False, 4), (False, 5), (True, 2)]
)
@pytest.mark.parametrize("whole", [False, True])
def test_code_in_a_torch_file_is_named_and_not_run(tmp_path, saved, legacy, protocol, whole):
    witness = tmp_path / "witness"
    value = Runs(witness) if whole else {"state_dict": {"w": torch.ones(2)}, "x": Runs(witness)}
    path = saved(value, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    error = refused(path)
    assert not witness.exists()
    assert "posix.system" in error.message
    assert "weights_only=False" in error.hint


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_bare_pickle_is_not_run(tmp_path, protocol):
    witness = tmp_path / "witness"
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(Runs(witness), protocol=protocol))
    refused(path)
    assert not witness.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_module_lists_its_classes_and_how_to_save_it_again(saved, legacy):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    error = refused(saved(model, _use_new_zipfile_serialization=not legacy))
    for name in ("Sequential", "Linear", "ReLU"):
        assert f"{name}" in error.message
    assert len(error.hint.splitlines()) == 6
    assert "state_dict()" in error.hint
    assert error.hint.endswith("c.pt --trust-pickle")


def test_the_three_lines_of_the_hint_work(saved, tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    hint = refused(saved(model)).hint
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line.strip() for line in hint.splitlines()[1:4]), {"torch": torch})
    found = read(tmp_path / "c-weights.pt")
    assert torch.equal(found.tensors["weight"], model.weight)


def rewritten(path, change):
    """The zip with one of its members changed by ``change(name, content)``."""
    with zipfile.ZipFile(path) as archive:
        members = [(i.filename, archive.read(i)) for i in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            for new_name, new in change(name, content):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    archive.writestr(new_name, new)
    return path


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.7, 0.99])
def test_truncated_zip(saved, keep):
    path = saved({"w": torch.zeros(100)})
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert recognise(path) is Format.DAMAGED_ZIP
    assert "damaged" in refused(path).message


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.99])
def test_truncated_legacy(saved, keep):
    path = saved({"w": torch.zeros(100)}, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert "damaged" in refused(path).message


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_safetensors(tmp_path, keep):
    content = save({"w": torch.zeros(100)})
    path = tmp_path / "m"
    path.write_bytes(content[: int(keep * len(content))])
    refused(path)


def test_member_that_unpacks_to_more_than_the_file(saved):
    path = saved({"w": torch.zeros(1000)})
    with zipfile.ZipFile(path) as archive:
        members = [(i.filename, archive.read(i)) for i in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content * (50_000 if name.endswith("data/0") else 1))
    size = path.stat().st_size
    error = refused(path)
    assert "claim" in error.message
    assert f"{size:,}" in error.message


def test_member_whose_directory_entry_lies(saved):
    path = saved({"w": torch.zeros(1000)})
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"c/data/0")
    # In the zip directory, sizes stand 26 and 22 bytes before the name.
    for offset in (26, 22):
        struct.pack_into("<I", content, entry - offset, 0x7FFF0000)
    path.write_bytes(bytes(content))
    assert "claim" in refused(path).message


def test_forged_storage_size(saved):
    """The pickle claims more elements than the member holds."""
    path = saved({"w": torch.zeros(1000)})
    old, new = b"M\xe8\x03", b"J\x00\x00\x00\x40"

    def change(name, content):
        return [(name, content.replace(old, new) if name.endswith("data.pkl") else content)]

    refused(rewritten(path, change))


def test_member_given_twice(saved):
    path = saved({"w": torch.zeros(10)})

    def change(name, content):
        return [(name, content)] * (2 if name.endswith("data/0") else 1)

    assert "twice" in refused(rewritten(path, change)).message


def test_shape_larger_than_its_storage(saved):
    """A view with stride zero claims a terabyte and stores four bytes."""
    path = saved({"w": torch.zeros(1).expand(1 << 20, 1 << 18)})
    assert "more than the file holds" in refused(path).message


@pytest.mark.parametrize("length", [1 << 20, 99_000_000, 1 << 40, 2**64 - 1])
def test_safetensors_header_longer_than_the_file(tmp_path, length):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"w":{"dtype":"F32","data_offsets":[0,4]')
    refused(path)


def safetensors_with(tmp_path, header, data=bytes(16)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}},
        {"w": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"w": 5},
        {"w": {}},
        b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "w": {}}',
        b'{"w": ' + b"[" * 100_000,
        b'{"w": \xff\xfe}',
        b"{}",
    ],
)
def test_safetensors_with_a_false_header(tmp_path, header):
    refused(safetensors_with(tmp_path, header))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), "qint8"),
        (lambda: torch.ones(2, 2).to_sparse(), "sparse"),
        (lambda: torch.ones(2, dtype=torch.complex64), "complex64"),
        (lambda: torch.ones(2, device="meta"), "meta"),
        (lambda: torch.ones(2).to(torch.float8_e4m3fn), "float8"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights(saved, make, said):
    error = refused(saved({"layer.weight": make(), "other": torch.ones(2)}))
    assert "layer.weight" in error.message
    assert said in error.message


def test_deep_nest_is_no_recursion_error(saved):
    value = {"w": torch.ones(1)}
    for _ in range(400):
        value = {"a": value}
    refused(saved(value))


def test_shared_nest_is_no_endless_search(saved):
    value: dict = {"w": 1}
    for _ in range(60):
        value = {"a": value, "b": value, "c": value}
    refused(saved(value))


@pytest.mark.parametrize(
    "value", [5, "text", [torch.ones(2)], torch.ones(2), None, {}, {"epoch": 3}, {1: torch.ones(2)}]
)
def test_values_without_weights(saved, value):
    refused(saved(value))


def test_harmless_containers_are_read(saved):
    value = collections.OrderedDict(w=torch.ones(2))
    assert torch.equal(read(saved(value)).tensors["w"], torch.ones(2))


def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert recognise(path) is None
    assert "not an ordinary file" in refused(path).message


def test_more_members_than_any_network_has(saved, monkeypatch):
    """Said as it is: such a file need not be damaged."""
    monkeypatch.setattr("flatmeter.checkpoint.zip_directory.MAX_ENTRIES", 3)
    error = refused(saved({"w": torch.ones(2), "b": torch.ones(2)}))
    assert "members, and 3 are the most that are read" in error.message
