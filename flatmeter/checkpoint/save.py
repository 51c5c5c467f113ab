"""Checkpoints that say which network, arguments, data and loss they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatmeter._version import __version__
from flatmeter.checkpoint.whole_file import whole_file
from flatmeter.checkpoint.words import ENTRY, FORMAT
from flatmeter.errors import UsageError


def save(
    path: str | Path,
    model: nn.Module,
    *,
    name: str,
    args: Mapping[str, Any] | None = None,
    data: str | None = None,
    loss: str | Mapping[str, Any] | None = None,
    **extra: Any,
) -> Path:
    """The file that ``flatmeter.save`` writes, without the word of its owner beside it.

    Takes, returns and raises what :func:`flatmeter.saving.save` does.
    """
    path = Path(path)
    words = {"model": name, "model_args": dict(args or {}), "data": data, "loss": loss, **extra}
    entry = {"format": FORMAT, "version": __version__}
    entry |= {key: _plain(value, key) for key, value in words.items()}
    content = {ENTRY: entry, "state_dict": clean_state(model)}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    return path


def clean_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers as contiguous CPU tensors under the names of the unwrapped network.

    Tied tensors stay one; a view of a larger tensor is copied, so that the rest is not stored.
    """
    model = unwrapped(model)
    state: dict[str, Tensor] = {}
    kept: dict[tuple[Any, ...], Tensor] = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            # Empty tensors have no address to tell them by.
            same = kept.setdefault(key, _own(tensor)) if tensor.numel() else _own(tensor)
            state[name.replace("_orig_mod.", "")] = same
    return state


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DDP, DataParallel and torch.compile, whatever their order."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _own(tensor: Tensor) -> Tensor:
    whole = tensor.detach().cpu().contiguous()
    fills = whole.untyped_storage().nbytes() == whole.numel() * whole.element_size()
    return whole if fills else whole.clone()


def _plain(value: Any, key: str) -> Any:
    """The value in types that a reader admits without running code."""
    if value is None or isinstance(value, (bool, int, float, str)):
        # A NumPy number is one of these by inheritance, yet is pickled as an object.
        return next((t(value) for t in (bool, int, float, str) if isinstance(value, t)), None)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, key) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return _plain(value.item(), key)
    raise UsageError(
        f"{key} is {type(value).__name__}, which a checkpoint cannot keep",
        where="flatmeter.save",
        hint="give numbers, texts, and lists and mappings of them",
    )
