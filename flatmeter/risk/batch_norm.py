"""A private copy of a network: dropout off, batch-norm in a settled mode, gradients dense."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from flatmeter.errors import FlatmeterError
from flatmeter.risk.module_copy import module_copy

BNMode = Literal["eval", "batch"]


def batch_norms(module: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """Every batch-norm of the network, by name."""
    return [(n, m) for n, m in module.named_modules() if isinstance(m, _BatchNorm)]


def private_copy(
    module: nn.Module, *, bn: BNMode, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """A copy in evaluation mode that may be evaluated without touching the original.

    In mode ``batch`` the running statistics of the copy's batch-norms are taken away, which is
    what makes PyTorch use the batch's own; a momentum of zero would still write to the buffers.

    Args:
        module: the user's network, left as it is.
        bn: ``eval`` for the stored statistics, ``batch`` for those of each batch.
        device: of the copy.
        dtype: of the copy's floating-point parameters and buffers.

    Raises:
        FlatmeterError: the network cannot be copied.
    """
    try:
        clone = module_copy(module)
    except Exception as error:
        raise FlatmeterError(
            f"the network cannot be copied: {error}",
            hint="flatmeter measures a copy so that yours stays untouched; build the network anew "
            "from its factory, or remove tensors that carry a graph",
        ) from error
    clone = clone.to(device=device, dtype=dtype).eval()
    for layer in clone.modules():
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
            # A sparse gradient is the same numbers, and cannot be differentiated once more.
            layer.sparse = False
    if bn == "batch":
        for _, norm in batch_norms(clone):
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            norm.track_running_stats = False
    return clone


def takes_batch_statistics(module: nn.Module) -> bool:
    """A batch-norm of the network uses the batch's own statistics for want of stored ones."""
    return any(norm.running_mean is None for _, norm in batch_norms(module))


def settled_mode(module: nn.Module, bn: BNMode) -> BNMode | None:
    """The mode in which the network's batch-norms really run, ``None`` where it has none.

    Batch-norms that never kept running statistics always use the batch's own; beside others that
    did, the mode is that of the others.
    """
    norms = batch_norms(module)
    if not norms:
        return None
    if bn == "eval" and all(m.running_mean is None for _, m in norms):
        return "batch"
    return bn
