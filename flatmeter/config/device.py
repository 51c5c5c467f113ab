"""Devices as people name them."""

from __future__ import annotations

import re

PATTERN = r"^(auto|cpu|cuda(:\d+)?)$"


def check_device(text: str) -> str:
    """The name of a device, whether or not this machine has it.

    Raises:
        ValueError: anything but ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if not re.fullmatch(PATTERN, text):
        raise ValueError("it must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return text
