"""``flatmeter inspect``: what a file is, and a line that measures it."""

from __future__ import annotations

import json
import os
import shlex

import pytest
import torch
from torch import nn

import flatmeter
from flatmeter.cli.main import run
from flatmeter.errors import ExitCode
from flatmeter.model.registry import build_model


class Runs:
    """Unpickling one creates a file."""

    def __reduce__(self):
        return os.system, ("touch witness",)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def inspect(capsys):
    """The exit code and what was printed."""

    def call(*arguments):
        code = run(["inspect", *map(str, arguments)])
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def described(inspect):
    """The entries that ``-f json`` prints."""

    def call(*arguments, code=ExitCode.OK):
        found, out = inspect(*arguments, "-f", "json")
        assert found == code
        content = json.loads(out)
        assert content["schema_version"] == 1
        return content["checkpoints"]

    return call


def small(classes=3, **args):
    """A torchvision network in little memory."""
    return build_model("torchvision:squeezenet1_1", {"num_classes": classes, **args})


def test_a_checkpoint_that_says_what_it_is(described):
    args = {"hidden": [4, 4]}
    net = build_model("zoo:mlp", args)
    flatmeter.save("a b.pt", net, name="zoo:mlp", args=args, data="digits", lr=float("nan"))
    (found,) = described("a b.pt")
    assert (found["status"], found["format"], found["key"]) == ("ok", "torch zip", "state_dict")
    assert found["bytes"] == os.path.getsize("a b.pt")
    assert found["tensors"]["head.weight"] == {"shape": [10, 4], "dtype": "float32", "bytes": 160}
    assert len(found["tensors"]) == 6
    assert found["metadata"]["lr"] == "nan"
    network = found["network"]
    assert (network["model"], network["model_args"]) == ("zoo:mlp", args)
    assert (network["said_by"], network["fits"]) == ("the file", True)
    assert (network["input_shape"], network["classes"]) == ([64], 10)
    assert found["symmetries"] == 2
    assert found["pickled"]["not_admitted"] == []
    assert "collections.OrderedDict" in found["pickled"]["names"]
    assert found["measure"] == "flatmeter measure 'a b.pt'"
    words = [*shlex.split(found["measure"])[1:], "-M", "gradient_norm", "-n", "20", "-q"]
    assert run(words) == ExitCode.OK


def test_weights_alone_are_recognised_and_the_line_measures_them(described, tmp_path):
    state = {f"module.{n}": t for n, t in small(in_channels=1).state_dict().items()}
    torch.save({"epoch": 3, "best": torch.tensor(0.5), "model_state_dict": state}, "w.pt")
    (found,) = described("w.pt")
    assert found["key"] == "model_state_dict"
    assert found["notes"] == ["prefix module. stripped"]
    assert found["metadata"] == {"stored": {"epoch": 3, "best": 0.5}}
    network = found["network"]
    assert network["model"] == "torchvision:squeezenet1_1"
    assert network["model_args"] == {"in_channels": 1, "num_classes": 3}
    assert (network["said_by"], network["fits"]) == ("names and shapes", True)
    assert network["input_shape"] == [1, 224, 224]
    x, y = torch.randn(6, 1, 40, 40), torch.arange(6) % 3
    torch.save({"inputs": x, "targets": y}, "data.pt")
    words = shlex.split(found["measure"])[1:]
    assert words[:3] == ["measure", "w.pt", "--data"]
    words[3] = "data.pt"
    assert run([*words, "-M", "gradient_norm", "-q"]) == ExitCode.OK


def test_bare_weights_are_no_metadata(described):
    torch.save(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict(), "w.pt")
    (found,) = described("w.pt")
    assert found["metadata"] == {}
    assert found["key"] == ""


def test_a_near_miss(described, inspect):
    state = dict(small().state_dict())
    del state["classifier.1.bias"]
    torch.save(state, "w.pt")
    (found,) = described("w.pt")
    assert found["network"]["model"] is None
    nearest = found["network"]["nearest"]
    assert len(nearest) == 3
    assert nearest[0]["model"] == "torchvision:squeezenet1_1"
    assert nearest[0]["missing"] == ["classifier.1.bias"]
    assert "1 missing (classifier.1.bias)" in inspect("w.pt")[1]


def test_a_network_that_does_not_fit(described):
    torch.save(small().state_dict(), "w.pt")
    (found,) = described("w.pt", "--model", "torchvision:squeezenet1_0", code=ExitCode.MISMATCH)
    assert found["network"]["fits"] is False
    assert found["network"]["difference"]["misshaped"]
    # The line does not repeat what cannot work.
    assert "--model torchvision:squeezenet1_1 --model-arg num_classes=3" in found["measure"]


def test_tied_weights(described):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    net[1].weight = net[0].weight
    torch.save(net.state_dict(), "w.pt")
    (found,) = described("w.pt")
    assert found["tied"] == [["0.weight", "1.weight"]]


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_named_and_not_run(inspect, described, legacy):
    value = {"state_dict": {"w": torch.ones(2)}, "x": Runs()}
    torch.save(value, "bad.pt", _use_new_zipfile_serialization=not legacy)
    code, out = inspect("bad.pt")
    assert code == ExitCode.REFUSED
    assert "not admitted: posix.system" in out
    (found,) = described("bad.pt", code=ExitCode.REFUSED)
    assert found["status"] == "refused"
    assert found["pickled"]["not_admitted"] == ["posix.system"]
    assert "tensors" not in found
    assert not os.path.exists("witness")


def test_code_that_a_file_names_is_not_run(described):
    with open("own.py", "w") as file:
        file.write("open('witness', 'w')")
    flatmeter.save("w.pt", nn.Linear(2, 2), name="own.py:build", data="digits")
    for beside in (True, False):
        (found,) = described("w.pt")
        assert found["network"]["model"].endswith("own.py:build")
        assert found["network"]["fits"] is None
        assert found["symmetries"] is None
        assert ("--model own.py:build" in found["measure"]) is not beside
        os.remove("w.pt.yaml") if beside else None
    assert not os.path.exists("witness")


def test_what_is_refused_does_not_hide_the_others(inspect, described):
    torch.save(small().state_dict(), "a.pt")
    with open("b.pt", "w") as file:
        file.write("these are not weights")
    code, out = inspect("a.pt", "b.pt")
    assert code == ExitCode.REFUSED
    assert "this is a text file" in out
    assert "torchvision:squeezenet1_1" in out
    entries = described("a.pt", "b.pt", code=ExitCode.REFUSED)
    assert [e["status"] for e in entries] == ["ok", "refused"]
    assert described("a.pt", "b.pt", "c.pt", code=ExitCode.FAILED) == entries


def test_names_cannot_steer_the_terminal(inspect):
    torch.save({"a\x1b[2J\nflatmeter measure evil": torch.ones(2, 2)}, "w.pt")
    out = inspect("w.pt")[1]
    assert "\x1b" not in out
    assert "a\\x1b[2J\\nflatmeter" in out


def test_another_format_is_refused(capsys):
    torch.save(small().state_dict(), "w.pt")
    assert run(["inspect", "w.pt", "-f", "csv"]) == ExitCode.USAGE
    assert "table or json" in capsys.readouterr().err
