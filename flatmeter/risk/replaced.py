"""Other values in a network's tensors, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def replaced(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """The network with other values in some of its parameters and buffers, inside the block only.

    The tensors themselves stay, so that whoever holds them, such as recurrent cells, sees the
    values.

    Args:
        module: changed in place and restored.
        values: by name, of any dtype.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    before = {name: tensors[name].detach().clone() for name in values}
    try:
        _copy(tensors, values)
        yield
    finally:
        _copy(tensors, before)


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        tensors[name].copy_(value)
