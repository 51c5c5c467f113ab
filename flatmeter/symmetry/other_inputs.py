"""Which inputs symmetries are verified on: how many samples, and others than the given ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flatmeter.randomness import derived_generator

NUMBERS, TOKENS = 2**16, 2**10
"""What goes into a network at once when it is verified, samples together."""


def enough_samples(sample: Tensor) -> int:
    """How many samples show a symmetry to be false although many relus are silent for each.

    Large samples show it at their many places, and are too costly for more than two.

    Args:
        sample: one of them, ``[…]``; real numbers or tokens.
    """
    budget = NUMBERS if sample.is_floating_point() else TOKENS
    return min(max(2, budget // max(1, sample.numel())), 16)


def other_inputs(run: Callable[[Tensor], object], inputs: Tensor) -> tuple[Tensor, ...]:
    """Batches of the same shape that the network runs on: smaller, larger, negated and random ones.

    Integers, such as tokens, are permuted among all samples and places.

    Args:
        run: the network.
        inputs: ``[n, …]``.
    """
    source = derived_generator(0, "other inputs")
    if inputs.is_floating_point():
        noise = torch.randn(inputs.shape, generator=source, dtype=torch.float64)
        noise = noise.to(inputs.device, inputs.dtype)
        mean, spread = inputs.mean(), inputs.std(correction=0)
        candidates = [
            mean + spread * noise,
            -inputs,
            0.1 * inputs,
            10 * inputs,
            inputs + spread,
            inputs - spread,
        ]
    else:
        flat = inputs.reshape(-1)
        orders = (torch.randperm(len(flat), generator=source) for _ in range(4))
        candidates = [flat[order.to(flat.device)].reshape(inputs.shape) for order in orders]
    return tuple(x for x in candidates if _runs(run, x))


def _runs(run: Callable[[Tensor], object], x: Tensor) -> bool:
    try:
        with torch.no_grad():
            run(x)
    except Exception:  # what a network takes is its own business
        return False
    return True
