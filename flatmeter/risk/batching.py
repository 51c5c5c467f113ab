"""How many samples' graphs may be held before a second derivative of them fills the memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

MAX_BATCH = 512
#: A second derivative keeps about this many times what a forward pass keeps for the first.
DERIVATIVE_FACTOR = 6
#: Part of the free memory that graphs may take.
MEMORY_SHARE = 0.25


def graph_bytes(forward: Callable[[Tensor], Tensor], example: Tensor, point: Tensor) -> int:
    """Bytes that a second derivative of one sample takes.

    From what one measured forward pass keeps for its derivative.

    Args:
        forward: runs the network with a graph on inputs ``[n, …]``.
        example: a few inputs.
        point: the parameters, which are kept too but not for each sample.

    Returns:
        At least 1.
    """
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # A slice of the data shares the storage of all of them.
        size = min(storage.nbytes(), tensor.numel() * tensor.element_size())
        if tensor.device == point.device and tensor.numel() >= len(example):
            kept[storage.data_ptr()] = max(size, kept.get(storage.data_ptr(), 0))
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward(example)
    kept.pop(point.untyped_storage().data_ptr(), None)
    return DERIVATIVE_FACTOR * max(1, sum(kept.values()) // len(example))


def room_for_graphs(bytes_per_sample: int, device: torch.device) -> int:
    """Samples whose graphs a part of the free memory has room for; at least 1."""
    return max(1, int(MEMORY_SHARE * free_memory(device) / bytes_per_sample))


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken on the device; a container's limit counts."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return max(2**28, min(free, int(limit.read_text()) - used))
    except (OSError, ValueError):
        return free
