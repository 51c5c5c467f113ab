"""torchvision is importable wherever torch is, quietly and as often as one likes."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
{before}
from flatmeter.import_torchvision import import_torchvision
assert "torchvision" not in sys.modules
first = import_torchvision()
assert import_torchvision() is first is sys.modules["torchvision"]
from torchvision import datasets, models, transforms
import torch
models.resnet18(weights=None).eval()(torch.zeros(1, 3, 32, 32))
print("works")
"""


def run(before=""):
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT.format(before=before)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_import_in_a_fresh_process_says_nothing():
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "works\n"
    assert done.stderr == ""


def test_import_after_somebody_elses_failed():
    done = run(
        "import torch\n"
        "try:\n    import torchvision\nexcept RuntimeError:\n    pass\n"
        "for name in [n for n in sys.modules if n.partition('.')[0] == 'torchvision']:\n"
        "    del sys.modules[name]\n"
    )
    assert done.returncode == 0, done.stderr


def test_only_the_wanted_error_is_caught(monkeypatch):
    import importlib

    import pytest

    from flatmeter import import_torchvision as module

    def fails(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(importlib, "import_module", fails)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(RuntimeError, match="something else"):
        module.import_torchvision()
