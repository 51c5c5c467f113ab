"""The ε of normalisation layers, made smaller to see what is due to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def scale_eps(module: nn.Module, factor: float) -> None:
    """Multiply the ε of every normalisation layer: every ``eps`` attribute that is a float.

    Args:
        module: changed in place.
        factor: without unit.
    """
    for layer in module.modules():
        eps = getattr(layer, "eps", None)
        if isinstance(eps, float):
            setattr(layer, "eps", eps * factor)  # noqa: B010


@contextmanager
def scaled_eps(module: nn.Module, factor: float) -> Iterator[None]:
    """:func:`scale_eps` inside the block only."""
    before = [(layer, getattr(layer, "eps", None)) for layer in module.modules()]
    try:
        scale_eps(module, factor)
        yield
    finally:
        for layer, eps in before:
            if isinstance(eps, float):
                setattr(layer, "eps", eps)  # noqa: B010
