"""Edited code is other code, wherever the person put it; libraries are not the person's."""

from __future__ import annotations

import importlib
import sys

import pytest

from flatmeter.importing import load_object
from flatmeter.own_code import source_hash


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def loaded(spec, folder, **files):
    """The hash after a fresh import of files with these contents."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
        for module in (name, f"flatmeter_user_{name}"):
            sys.modules.pop(module, None)
    importlib.invalidate_caches()
    load_object(spec, where="--model")
    return source_hash(spec)


@pytest.mark.parametrize("spec", ["mynet.py:build", "mynet:build"])
def test_another_body_is_another_hash(spec, folder):
    first = loaded(spec, folder, mynet="def build(): return 1\n")
    assert first == loaded(spec, folder, mynet="def build(): return 1\n")
    assert first != loaded(spec, folder, mynet="def build(): return 12\n")


@pytest.mark.parametrize("line", ["import parts_of", "from parts_of import x"])
@pytest.mark.parametrize("inside", [False, True])
def test_own_modules_that_it_imports_count(line, inside, folder):
    text = f"def build():\n    {line}\n" if inside else f"{line}\ndef build(): return 1\n"
    if inside:
        text += "build()\n"
    hashes = {
        loaded("mynet.py:build", folder, parts_of=f"x = {i}\n", mynet=text) for i in (1, 2, 2)
    }
    assert len(hashes) == 2


def test_circles_end_and_libraries_do_not_count(folder):
    texts = {
        "mynet": "import math, torch, parts_of\ndef build(): return 1\n",
        "parts_of": "import mynet\n",
    }
    assert loaded("mynet:build", folder, **texts) is not None
    assert source_hash("json:loads") is not None


def test_what_is_no_code_has_none():
    assert source_hash("mlp") is None
    assert source_hash("nowhere.py:build") is None


def test_libraries_lent_by_another_environment_do_not_count(folder, monkeypatch):
    """As of a cluster's module of PyTorch below an environment of one's own."""
    lent = folder / "there" / "site-packages"
    lent.mkdir(parents=True)
    monkeypatch.syspath_prepend(lent)
    hashes = set()
    for text in ("x = 1\n", "x = 2\n"):
        (lent / "lent_one.py").write_text(text)
        sys.modules.pop("lent_one", None)
        net = "import lent_one\ndef build(): return lent_one.x\n"
        hashes.add(loaded("mynet:build", folder, mynet=net))
    assert len(hashes) == 1
