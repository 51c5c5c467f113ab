"""Copying a network, also one that holds tensors which carry a graph."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn


def module_copy(module: nn.Module) -> nn.Module:
    """A deep copy.

    Tensors that modules keep from a forward pass, such as the weights that ``weight_norm``
    composes, are copied without their graph: PyTorch refuses to copy it, and the next forward pass
    makes them anew.
    """
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, memo)
