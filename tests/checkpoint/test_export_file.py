"""Weights of ``.pt2`` files as ``torch.export.save`` writes them, read without the program."""

from __future__ import annotations

import json

import hostile_files
import pytest
import torch
from torch import nn

from flatmeter.checkpoint import fit, read
from flatmeter.errors import CheckpointRefused


class Tied(nn.Module):
    """Tied weights, a buffer of half precision, numbers that are not contiguous, and a count."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.turned = nn.Parameter(torch.randn(3, 2).t())
        self.register_buffer("shift", torch.randn(2).half())

    def forward(self, x):
        return nn.functional.linear(self.second(self.first(self.norm(x))), self.turned) + self.shift


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The network and the file."""
    torch.manual_seed(0)
    net = Tied().eval()
    path = tmp_path_factory.mktemp("export") / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.randn(4, 3),)), path)
    return net, path


def test_every_parameter_and_buffer(exported, equal):
    net, path = exported
    found = read(path)
    assert found.format == "torch.export"
    assert equal(dict(found.tensors), dict(net.state_dict()))
    tied = found.tensors["first.weight"], found.tensors["second.weight"]
    assert tied[0].data_ptr() == tied[1].data_ptr()


def test_it_fits_the_network(exported, equal):
    net, path = exported
    other = Tied()
    fit(other, read(path))
    assert equal(other.state_dict(), net.state_dict())


def made(tmp_path, meta=None, *, pickled=False, blob=bytes(16), order=b"little"):
    meta = {"dtype": 7, "layout": 7, "sizes": [{"as_int": 4}], "strides": [{"as_int": 1}],
            "storage_offset": {"as_int": 0}, **(meta or {})}  # fmt: skip
    config = {"w": {"path_name": "weight_0", "use_pickle": pickled, "tensor_meta": meta}}
    members = {"archive_format": b"pt2", "byteorder": order, "models/m.json": b"{}",
               "data/weights/m_weights_config.json": json.dumps({"config": config}).encode(),
               "data/weights/weight_0": blob}  # fmt: skip
    path = tmp_path / "m.pt2"
    path.write_bytes(hostile_files.archive({f"m/{k}": v for k, v in members.items()}))
    return path


def test_a_file_made_by_hand_is_read(tmp_path):
    assert torch.equal(read(made(tmp_path)).tensors["w"], torch.zeros(4))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pickled": True}, "pickled"),
        ({"meta": {"dtype": 10}}, "complex"),
        ({"meta": {"layout": 1}}, "sparse"),
        ({"meta": {"sizes": [{"as_int": 5}]}}, "larger than its bytes"),
        ({"meta": {"sizes": [{"as_int": -1}]}}, "no number"),
        ({"meta": {"sizes": [{"as_expr": "s0"}]}}, "as_int"),
        ({"meta": {"strides": [{"as_int": 2}]}}, "larger than its bytes"),
        ({"meta": {"strides": []}}, "ValueError"),
        ({"meta": {"storage_offset": {"as_int": 1}}}, "larger than its bytes"),
        ({"meta": {"sizes": [{"as_int": 2**62}], "strides": [{"as_int": 0}]}}, "more than"),
        ({"blob": bytes(15)}, "damaged"),
        ({"order": b"big"}, "little-endian"),
    ],
)
def test_what_it_claims_is_checked(tmp_path, change, said):
    with pytest.raises(CheckpointRefused, match=said):
        read(made(tmp_path, **change))
