"""Durations and sizes for people."""

from __future__ import annotations


def span(seconds: float) -> str:
    """A duration for people, to two digits."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{_two(seconds / length)} {unit}"
    return f"{_two(seconds)} s"


def frequency(rate: float) -> str:
    """How often something happens, for people, to two digits.

    Args:
        rate: in one second.
    """
    for length, unit in ((1, "s"), (60, "min")):
        if rate * length >= 1:
            return f"{_two(rate * length)}/{unit}"
    return f"{_two(rate * 3600)}/h"


def _two(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{count / 2**10:,.0f} KiB"
