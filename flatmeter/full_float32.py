"""Arithmetic of float32 as its name says, whatever shortcuts the hardware offers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_PLACES: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)


@contextmanager
def full_float32() -> Iterator[None]:
    """Without TensorFloat-32, which keeps 10 of the 23 bits of every factor.

    PyTorch lets convolutions on a GPU use it by default. The caller's settings are restored. By the
    older names of the settings: the export of a graph reads those, and fails where both were used.
    """
    before = [place.allow_tf32 for place in _PLACES]
    try:
        for place in _PLACES:
            place.allow_tf32 = False
        yield
    finally:
        for place, allowed in zip(_PLACES, before, strict=True):
            place.allow_tf32 = allowed
