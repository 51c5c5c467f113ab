"""A person's own code by its import path."""

from __future__ import annotations

import pytest

from flatmeter.errors import UsageError
from flatmeter.importing import load_object

CODE = """
import os
from collections import OrderedDict

from torch import nn


def make_net(): ...


def _hidden(): ...


class Net(nn.Module): ...


ready = OrderedDict()
"""


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "code_of_a_person.py"
    path.write_text(CODE)
    return path


def refused(spec) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_object(spec, where="--model")
    return caught.value


@pytest.mark.parametrize("name", ["make_net", "Net", "ready", "OrderedDict"])
def test_whatever_has_a_name_can_be_taken(code, name):
    assert load_object(f"{code}:{name}", where="--model") is not None


@pytest.mark.parametrize("as_module", [False, True])
def test_a_name_that_is_not_there_shows_those_that_the_file_defines(code, monkeypatch, as_module):
    monkeypatch.chdir(code.parent)
    target = code.stem if as_module else str(code)
    error = refused(f"{target}:mak_net")
    assert error.message == f"{target} has no 'mak_net'"
    assert error.hint == "did you mean make_net? it defines: make_net, Net"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("reddy", "did you mean ready? it defines: make_net, Net"),
        ("quite_other", "it defines: make_net, Net"),
    ],
)
def test_the_nearest_name_may_be_of_anything(code, name, hint):
    assert refused(f"{code}:{name}").hint == hint


def test_a_file_that_defines_nothing(tmp_path):
    (tmp_path / "empty.py").write_text("from os import getcwd\n")
    assert refused(f"{tmp_path}/empty.py:net").hint == "it defines: no function and no class"


def test_a_file_that_failed_on_torchvisions_operators_is_run_again(tmp_path):
    """As where a torchvision for CUDA stands beside a torch for CPUs."""
    file = tmp_path / "uses_torchvision.py"
    file.write_text(
        "from pathlib import Path\n"
        "ran = Path(__file__).with_suffix('.ran')\n"
        "if not ran.exists():\n"
        "    ran.touch()\n"
        "    try:\n"
        "        raise RuntimeError('operator torchvision::nms does not exist')\n"
        "    except RuntimeError as error:\n"
        "        raise ImportError('could not import it') from error\n"
        "value = 3\n"
    )
    assert load_object(f"{file}:value", where="--model") == 3
