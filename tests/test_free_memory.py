"""What is free, as far as the system tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from flatmeter.free_memory import LEAST, free_memory

CPU = torch.device("cpu")


def test_a_plausible_number():
    assert LEAST <= free_memory(CPU) < 2**50


@pytest.mark.parametrize("known", ["SC_AVPHYS_PAGES", "SC_PHYS_PAGES"])
def test_where_there_are_no_such_files(known, monkeypatch):
    def missing(self):
        raise FileNotFoundError(self)

    names = {known: 0, "SC_PAGE_SIZE": 1}
    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(os, "sysconf_names", names)
    monkeypatch.setattr(os, "sysconf", lambda name: {known: 3000, "SC_PAGE_SIZE": 4096}[name])
    assert free_memory(CPU) == 3000 * 4096


def test_a_container_may_hold_less(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n",
        "/sys/fs/cgroup/memory.max": "1000000000\n",
        "/sys/fs/cgroup/memory.current": "400000000\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda self: files[str(self)])
    assert free_memory(CPU) == 600_000_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert free_memory(CPU) == 8_000_000 * 1024
