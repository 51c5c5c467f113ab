"""Telling an exhausted memory from other errors."""

from __future__ import annotations

import torch

#: What PyTorch's allocator of host memory says; its exception has no type of its own.
WORDS = ("can't allocate memory", "not enough memory")


def ran_out(error: BaseException) -> bool:
    """Memory ran out, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)
