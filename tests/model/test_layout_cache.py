"""The layouts of a library are built once, and a broken file is built anew."""

from __future__ import annotations

import gzip
import json

import pytest

from flatmeter.model import layout_cache
from flatmeter.model.layout import Layout
from flatmeter.model.layout_cache import cache_file, layouts

LAYOUT = Layout(
    "torchvision:toy",
    {"aux": False},
    {"w": (3, "num_classes")},
    {"num_classes": 4},
    silent={"t": (1,)},
)


@pytest.fixture
def builds(monkeypatch, tmp_path):
    """How often the networks are built, in a cache folder of its own."""
    calls = []

    def build(library):
        calls.append(library)
        return (LAYOUT,)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(layout_cache, "_built", build)
    monkeypatch.setattr(layout_cache, "_known", {})
    return calls


def again():
    """As another process asks."""
    layout_cache._known.clear()
    return layouts("torchvision")


def test_built_once_and_kept_whole(builds):
    assert again() == again() == (LAYOUT,)
    assert builds == ["torchvision"]
    assert [f.name for f in cache_file("torchvision").parent.iterdir()] == [
        cache_file("torchvision").name
    ]


def test_a_version_has_a_file_of_its_own(builds, monkeypatch):
    again()
    monkeypatch.setattr(layout_cache.importlib.metadata, "version", lambda name: "99.1+cpu")
    again()
    assert len(builds) == 2
    assert "99.1+cpu" in cache_file("torchvision").name


def _flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-10],
        _flipped,
        lambda content: b"no gzip",
        lambda content: gzip.compress(b"[1, 2"),
        lambda content: gzip.compress(json.dumps([{"model": "x"}]).encode()),
        lambda content: gzip.compress(b"5"),
        lambda content: gzip.compress(b"[]"),
    ],
)
def test_a_broken_file_is_built_anew(builds, damage):
    again()
    file = cache_file("torchvision")
    file.write_bytes(damage(file.read_bytes()))
    assert again() == (LAYOUT,)
    assert len(builds) == 2
    assert again() == (LAYOUT,)
    assert len(builds) == 2


def test_without_a_folder_that_can_be_written(builds, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert again() == (LAYOUT,)


def test_without_a_home(builds, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(layout_cache.Path, "home", _homeless)
    assert cache_file("torchvision") is None
    assert again() == (LAYOUT,)


def _homeless():
    raise RuntimeError("could not determine home directory")


def test_a_library_that_is_not_installed_has_none(builds):
    assert layouts("no_such_library") == ()


def test_only_a_slow_library_is_told_of(builds, monkeypatch):
    told = []
    monkeypatch.setattr(layout_cache, "_SLOW", ("torchvision",))
    for _ in range(2):
        layout_cache._known.clear()
        layouts("torchvision", told.append)
    assert len(told) == 1
    assert "torchvision" in told[0]
