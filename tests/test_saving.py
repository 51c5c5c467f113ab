"""``flatmeter.save`` with a person's own code: measured bare, and never on a stranger's word."""

from __future__ import annotations

import pytest
from torch import nn

import flatmeter
from flatmeter.cli.main import run
from flatmeter.errors import UsageError

CODE = """
import torch
from torch import nn

def net(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))

def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 6, generator=generator), torch.arange(12) % 3

def loss(z, y):
    return nn.functional.cross_entropy(z, y)
"""


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    names = {}
    exec(CODE, names)
    return flatmeter.save(
        "runs/net.pt",
        names["net"](5),
        name="mine.py:net",
        args={"width": 5},
        data="mine.py:data",
        loss="mine.py:loss",
    )


def test_measured_bare_from_anywhere(saved, tmp_path, monkeypatch, capsys):
    assert run(["measure", "runs/net.pt", "-M", "gradient_norm", "-q"]) == 0
    here = capsys.readouterr().out
    monkeypatch.chdir("/")
    assert run(["measure", str(tmp_path / "runs/net.pt"), "-M", "gradient_norm", "-q"]) == 0
    assert here.split()[-1] == capsys.readouterr().out.split()[-1]


def test_a_checkpoint_alone_runs_nothing(saved, capsys):
    saved.with_name("net.pt.yaml").unlink()
    assert run(["measure", "runs/net.pt", "-M", "gradient_norm"]) == 2
    assert "--model mine.py:net" in capsys.readouterr().err


def test_a_persons_own_file_beside_it_is_left(saved, tmp_path):
    beside = saved.with_name("net.pt.yaml")
    beside.write_text("model: zoo:mlp\n")
    exec(CODE, names := {})
    flatmeter.save("runs/net.pt", names["net"](), name="mine.py:net")
    assert beside.read_text() == "model: zoo:mlp\n"


def test_no_file_beside_it_without_need(saved):
    flatmeter.save(saved, flatmeter.load(saved).model, name="zoo:mlp", data="digits")
    assert not saved.with_name("net.pt.yaml").exists()


class Own(nn.Module):
    pass


@pytest.mark.parametrize(
    ("model", "guess"),
    [(Own(), "test_saving.py:Own"), (nn.Sequential(), "file.py:factory")],
)
def test_without_a_name_it_says_what_to_add(tmp_path, model, guess):
    with pytest.raises(UsageError, match=f"flatmeter.save: nothing says.*\nadd name={guess!r}"):
        flatmeter.save(tmp_path / "net.pt", model)
    assert list(tmp_path.iterdir()) == []
