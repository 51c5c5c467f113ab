"""Where numbers came from: versions, device, command line, memory."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from flatmeter._version import __version__
from flatmeter.ranks.group import current

if TYPE_CHECKING:
    from flatmeter.plan import Plan
    from flatmeter.subject import Subject


def describe_run(plan: Plan, subjects: Iterable[Subject] = ()) -> dict[str, Any]:
    """What ``run.json`` and the ``run`` of a JSON document hold."""
    settings = {k: v for k, v in asdict(plan).items() if k != "measures"}
    data = {subject.data.name: subject.data.fingerprint() for subject in subjects}
    return {
        "flatmeter": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device_name(plan.device),
        "processes": current().size,
        "argv": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": settings,
        "measures": {m.name: m.settings.model_dump(mode="json") for m in plan.measures},
        "data": data,
    }


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"


def reset_peak(device: str) -> None:
    """Begin to watch the memory of a GPU."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int:
    """Most memory in use: on a GPU since :func:`reset_peak`, on a CPU of the process so far."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kilobytes, macOS bytes.
    return int(peak if sys.platform == "darwin" else peak * 1024)
