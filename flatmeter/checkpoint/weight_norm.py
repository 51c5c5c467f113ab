"""Weights that weight_norm stores as a direction and a length, put together again."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

_LENGTH = re.compile(r"(?:([^.]+)_g|parametrizations\.([^.]+)\.original0)$")
_DIRECTION = re.compile(r"(?:([^.]+)_v|parametrizations\.([^.]+)\.original1)$")


def folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with every pair of weight_norm replaced by the weight ``g · v / ‖v‖`` it gives.

    Args:
        tensors: by name; pairs are those of ``torch.nn.utils.weight_norm`` (``weight_g``,
            ``weight_v``) and of its parametrization (``original0``, ``original1``).
    """
    lengths, directions = _by_weight(_LENGTH, tensors), _by_weight(_DIRECTION, tensors)
    weights = {v: weight for weight, v in directions.items() if weight in lengths}
    gone = {lengths[weight] for weight in weights.values()}
    return {
        weights.get(name, name): _product(tensors[lengths[weights[name]]], tensor)
        if name in weights
        else tensor
        for name, tensor in tensors.items()
        if name not in gone
    }


def _by_weight(pattern: re.Pattern[str], names: Collection[str]) -> dict[str, str]:
    """Names of a kind, by the name of the weight that they are a part of."""
    found = {}
    for name in names:
        match = pattern.search(name)
        if match:
            found[name[: match.start()] + (match[1] or match[2])] = name
    return found


def _product(length: Tensor, direction: Tensor) -> Tensor:
    """``g · v / ‖v‖``, the norm over every dimension in which ``g`` has a single entry."""
    if length.dim() not in (0, direction.dim()):
        return direction
    v = direction.double()
    dims = [i for i, n in enumerate(length.shape) if n == 1] or list(range(v.dim()))
    norm = torch.linalg.vector_norm(v, dim=dims, keepdim=True)
    weight: Tensor = v * (length.double() / norm)
    return weight.to(direction.dtype)
