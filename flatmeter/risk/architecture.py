"""What of a network is not its numbers: the same for all checkpoints of one architecture."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Hashable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn


def architecture(module: nn.Module) -> Hashable | None:
    """Everything that a network is besides the values of its parameters and buffers.

    That is: its layers with every attribute, hooks, names, shapes and dtypes of its tensors, which
    of them are tied and which are held fixed. A tensor that is neither parameter nor buffer counts
    with its values, and so does a number that loading the weights has set in Python. Classes and
    functions are the same only where they are one object: two files may define the same names.

    Args:
        module: the network.

    Returns:
        Equal for networks of one architecture. ``None`` where a part of it cannot be looked into:
        a closure, a class without a module.
    """
    own: dict[int, str] = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        own.setdefault(id(tensor), name)
    stream = io.BytesIO()
    try:
        structure = _Structure(stream, own)
        structure.dump(module)
    except Exception:
        # Whatever a part of it raises: it cannot be compared with another.
        return None
    return hashlib.sha256(stream.getbuffer()).hexdigest(), *structure.code


class _Structure(pickle.Pickler):
    """Writes parameters and buffers as their names, other tensors as the hash of their values."""

    def __init__(self, stream: io.BytesIO, own: Mapping[int, str]) -> None:
        super().__init__(stream)
        self._own = own
        self.code: dict[type | FunctionType, None] = {}

    def persistent_id(self, value: Any) -> Any:
        """What stands in the place of a tensor."""
        if isinstance(value, (type, FunctionType)):
            self.code[value] = None
        if not isinstance(value, Tensor):
            return None
        name = self._own.get(id(value))
        about = (type(value).__name__, str(value.dtype), str(value.device), value.requires_grad)
        if name is not None:
            return (name, *about, tuple(value.shape), value.stride())
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return (hashlib.sha256(raw.data).hexdigest(), *about, tuple(value.shape))
