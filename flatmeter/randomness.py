"""Randomness derived from ``(seed, purpose, index)``, never from the state of a loop."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derived_generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator that depends on nothing but its arguments.

    More probes extend a run, and batch sizes do not change which vectors are drawn.

    Args:
        seed: of the run.
        purpose: what is drawn, in a word or two.
        index: of the probe, start or element.
    """
    import torch

    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
