"""How much memory may still be taken."""

from __future__ import annotations

import os
from pathlib import Path

import torch

LEAST = 2**28
"""Bytes that are counted on in any case: what a container says may be its cache."""


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken on the device; a container's limit counts."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = _available()
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return max(LEAST, min(free, int(limit.read_text()) - used))
    except (OSError, ValueError):
        return free


def _available() -> int:
    """What the host can give without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        # A Mac tells only what there is in all.
        pages = next(n for n in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if n in os.sysconf_names)
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
