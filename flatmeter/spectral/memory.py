"""How much memory a solver may take for its vectors."""

from __future__ import annotations

from pathlib import Path

import torch

SHARE = 0.5


def spare_bytes(device: torch.device) -> int | None:
    """Half of the memory that is free on ``device``; ``None`` where that cannot be told."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return int(SHARE * 1024 * kilobytes[0]) if kilobytes else None
