"""``--trust-pickle``: the only door to files that are read by running what they hold."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

NETS = """
import os
from pathlib import Path

from torch import nn


class Net(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.last(self.first(x).tanh())

    def __setstate__(self, state):
        Path("ran").touch()
        super().__setstate__(state)
"""
RUN = ("--data", "data.npz", "-M", "gradient_norm", "--progress", "none")


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """``whole.pt``, a module pickled with its class, whose code creates a file ``ran``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "its_nets.py").write_text(NETS)
    inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(7)).numpy()
    np.savez("data.npz", inputs=inputs, targets=np.arange(24) % 3)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        from its_nets import Net

        torch.manual_seed(0)
        net = Net()
        torch.save(net, "whole.pt")
        torch.save(net.state_dict(), "weights.pt")
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 4)), "program.pt")
    del sys.modules["its_nets"]
    yield tmp_path / "whole.pt"
    sys.modules.pop("its_nets", None)


@pytest.fixture
def values(flatmeter):
    """Values by quantity, and all that was printed."""

    def call(*arguments):
        code, out, err = flatmeter("measure", *arguments, *RUN, "-f", "json")
        assert code == 0, err
        document = json.loads(out)
        return {row["quantity"]: row["value"] for row in document["rows"]}, document, err

    return call


def test_without_the_flag_nothing_runs(flatmeter, whole):
    for command in ("measure", "symmetries", "spectrum", "bench", "inspect"):
        more = RUN[:2] if command in ("measure", "spectrum", "bench") else ()
        code, out, err = flatmeter(command, "whole.pt", *more)
        assert code == 3
        assert "its_nets.Net" in out + err
        assert "flatmeter measure whole.pt --trust-pickle" in out + err
    assert not (whole.parent / "ran").exists()


def test_the_network_in_the_file_is_measured(values, whole):
    found, document, err = values("whole.pt", "--trust-pickle")
    expected, plain, _ = values("weights.pt", "--model", "its_nets:Net")
    assert found == expected
    assert "its code was run, as --trust-pickle says: its_nets.Net" in err
    assert "the network is the one in the file: Net" in err
    assert document["run"]["trust_pickle"] is True
    assert "its_nets.Net" in document["run"]["unpickled"]["whole.pt"]
    assert plain["run"]["trust_pickle"] is False
    assert "unpickled" not in plain["run"]


def test_it_is_kept_with_the_results(flatmeter, whole):
    arguments = ("measure", "whole.pt", "--trust-pickle", *RUN, "-o", "results")
    assert flatmeter(*arguments)[0] == 0
    run = json.loads((whole.parent / "results" / "run.json").read_text())
    assert "its_nets.Net" in run["unpickled"]["whole.pt"]
    assert "measured already: 1 of 1" in flatmeter(*arguments)[2]
    # Code that was edited is another network.
    source = whole.parent / "its_nets.py"
    source.write_text(NETS.replace(".tanh()", ".sin()"))
    del sys.modules["its_nets"]
    assert "measured already" not in flatmeter(*arguments)[2]


def test_a_named_network_goes_before_the_one_in_the_file(values, flatmeter, whole):
    (whole.parent / "other.py").write_text(NETS.replace(".tanh()", ".relu()"))
    found, _, err = values("whole.pt", "--trust-pickle", "--model", "other.py:Net")
    assert "the network is the one in the file" not in err
    assert found == values("weights.pt", "--model", "other.py:Net")[0]
    code, _, err = flatmeter(
        "measure", "whole.pt", "--trust-pickle", "--model-arg", "width=9", *RUN
    )
    assert (code, "--model-arg" in err) == (2, True)


def test_of_torchscript_the_weights_alone(values, whole):
    found, _, err = values("program.pt", "--trust-pickle", "--model", "its_nets:Net")
    assert found == values("weights.pt", "--model", "its_nets:Net")[0]
    assert "its code was run, as --trust-pickle says: a TorchScript program" in err


def test_every_command_that_reads_checkpoints_says_what_it_ran(flatmeter, whole):
    for command in (("symmetries",), ("spectrum", *RUN[:2]), ("bench", *RUN)):
        code, _, err = flatmeter(*command, "whole.pt", "--trust-pickle")
        assert code == 0, err
        assert "whole.pt: its code was run" in err
    code, _, err = flatmeter("measure", "whole.pt", "--trust-pickle", "--dry-run", *RUN)
    assert (code, "whole.pt: its code was run" in err) == (0, True)


def test_a_moved_checkpoint_holds_weights_alone(flatmeter, values, whole):
    (whole.parent / "relu.py").write_text(NETS.replace(".tanh()", ".relu()"))
    code, out, err = flatmeter("symmetries", "whole.pt", "--trust-pickle", "--model", "relu.py:Net",
                               "--transform", "moved.pt")  # fmt: skip
    assert code == 0, err
    assert "the weights alone are written" in out
    assert values("moved.pt", "--model", "relu.py:Net")[1]["run"]["trust_pickle"] is False


@pytest.mark.parametrize("where", ["environment", "project", "file", "beside"])
def test_no_setting_opens_it(flatmeter, whole, monkeypatch, where):
    more = ()
    if where == "environment":
        monkeypatch.setenv("FLATMETER_TRUST_PICKLE", "1")
        monkeypatch.setenv("FLATMETER_MEASURE_TRUST_PICKLE", "1")
    elif where == "file":
        (whole.parent / "own.yaml").write_text("trust_pickle: true\n")
        more = ("-c", "own.yaml")
    else:
        name = "flatmeter.yaml" if where == "project" else "whole.pt.yaml"
        (whole.parent / name).write_text("trust_pickle: true\n")
    code, _, err = flatmeter("measure", "whole.pt", *more, *RUN)
    assert code == 2
    assert "TRUST_PICKLE" in err.upper()
    assert not (whole.parent / "ran").exists()


@pytest.mark.parametrize("name", ["TRUST_PICKLE", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_no_variable_of_others_opens_it(flatmeter, whole, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert flatmeter("measure", "whole.pt", *RUN)[0] == 3
    assert flatmeter("inspect", "whole.pt")[0] == 3
    assert not (whole.parent / "ran").exists()


def test_who_forbids_it_for_all_of_pytorch_is_obeyed(flatmeter, whole, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    for name in ("whole.pt", "program.pt"):
        code, _, err = flatmeter("measure", name, "--trust-pickle", *RUN)
        assert (code, "TORCH_FORCE_WEIGHTS_ONLY_LOAD forbids it" in err) == (3, True)
    assert not (whole.parent / "ran").exists()


def test_inspect_never_runs_anything(flatmeter, whole):
    code, _, err = flatmeter("inspect", "whole.pt", "--trust-pickle")
    assert (code, "--trust-pickle" in err) == (2, True)
    assert not (whole.parent / "ran").exists()
