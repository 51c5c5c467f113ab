"""The tensors of a state_dict, checked to be ordinary ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Buffer, Parameter

from flatmeter.errors import CheckpointRefused

_ORDINARY = frozenset(
    {
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    }
)  # fmt: skip
#: Names are compared and cut part by part; no network has them as long.
_LONGEST = 1_000
_MOST_DIMS = 64


def plain_tensors(
    value: Mapping[str, Any], size: int, where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors by name, and a note on entries that are none.

    Args:
        value: the mapping that holds the weights.
        size: of the file in bytes; no tensor in it can be larger.
        where: the file, for messages.

    Raises:
        CheckpointRefused: a tensor is quantised, sparse, a part of a distributed one, or larger
            than the file.
    """
    tensors: dict[str, Tensor] = {}
    dropped: list[str] = []
    for name, entry in value.items():
        if not isinstance(entry, Tensor):
            dropped.append(name)
            continue
        fault = _fault(entry, size)
        if fault:
            raise CheckpointRefused(f"{name[:_LONGEST]} {fault}", where=where)
        if len(name) > _LONGEST:
            raise CheckpointRefused(
                f"a tensor's name has {len(name):,} characters: {name[:50]}…", where=where
            )
        tensors[name] = entry.detach()
    notes = (f"left out, as no tensors: {_listed(dropped)}",) if dropped else ()
    return tensors, notes


def _fault(tensor: Tensor, size: int) -> str | None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_quantized or tensor.dtype not in _ORDINARY:
        return f"is stored as {dtype}; quantised and complex weights cannot be measured"
    if type(tensor) not in (Tensor, Parameter, Buffer):
        return f"is a {type(tensor).__name__}; save a full state_dict, gathered from all ranks"
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout}); save it dense"
    if tensor.device.type == "meta":
        return "holds no values (it lies on the meta device)"
    if tensor.dim() > _MOST_DIMS:
        return f"has {tensor.dim():,} dimensions"
    if tensor.numel() * tensor.element_size() > size:
        return f"claims the shape {list(tensor.shape)}, more than the file holds"
    return None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
