"""Running statistics that follow the weights, so that a moved network is the same at test time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flatmeter.risk.attention import math_attention
from flatmeter.risk.batch_norm import batch_norms
from flatmeter.risk.replaced import replaced

FLAT = 1e-12
"""Spread of a channel, relative to its largest value, below which it is constant."""


def moved_statistics(
    module: nn.Module, moved: Mapping[str, Tensor], inputs: Tensor
) -> dict[str, Tensor]:
    """What running means and variances become when the weights in front of batch-norms move.

    A rescaling multiplies each channel that enters a batch-norm by a number and, where a bias moved
    that the batch-norm takes away, shifts it. Both are read off the channel's mean and spread over
    the inputs, and hold for any other inputs as well.

    Args:
        module: the network in float64, its batch-norms using the statistics of the batch.
        moved: the parameters that moved, by name.
        inputs: ``[n, …]`` float64.

    Returns:
        By the batch-norm's name ``(factor, shift)``, stacked: ``[2, channels]`` float64, of those
        batch-norms that are used.
    """
    before = _moments(module, {}, inputs)
    after = _moments(module, moved, inputs)
    changes = {}
    for name, (mean, spread, size) in before.items():
        new_mean, new_spread, _ = after[name]
        live = spread > FLAT * size
        factor = torch.where(live, new_spread / spread.where(live, torch.ones(())), 1.0)
        if live.any():
            # Any factor is right for a channel that is constant, as long as the shift agrees.
            factor[~live] = factor[live].median()
        changes[name] = torch.stack([factor, new_mean - factor * mean])
    return changes


def _moments(
    module: nn.Module, parameters: Mapping[str, Tensor], inputs: Tensor
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Mean, spread and largest size of every channel that enters a batch-norm."""
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad(), math_attention(), replaced(module, parameters), _watching(module, found):
        module(inputs)
    moments = {}
    for name, parts in found.items():
        values = torch.cat(parts, dim=1)
        spread = values.std(dim=1, correction=0)
        moments[name] = (values.mean(dim=1), spread, values.abs().amax(dim=1))
    return moments


@contextmanager
def _watching(module: nn.Module, found: dict[str, list[Tensor]]) -> Iterator[None]:
    """What enters every batch-norm meanwhile, as ``[channels, places]``."""

    def watch(name: str, norm: _BatchNorm) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            found.setdefault(name, []).append(given[0].transpose(0, 1).flatten(1))

        return norm.register_forward_pre_hook(hook)

    handles = [watch(name, norm) for name, norm in batch_norms(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
