"""Set for the program only, and never over the user's own."""

from __future__ import annotations

import ctypes

import pytest

from flatmeter import allocator


class Library:
    def __init__(self):
        self.calls = []

    def mallopt(self, name, value):
        self.calls.append((name, value))
        return 1


@pytest.fixture
def library(monkeypatch):
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    for name in ("MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    return library


def test_both_thresholds_are_raised(library):
    allocator.keep_freed_memory()
    assert dict(library.calls) == {-3: 2**28, -1: 2**31 - 1}


def test_what_the_environment_sets_stays(library, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    allocator.keep_freed_memory()
    assert library.calls == []


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    allocator.keep_freed_memory()
