"""Durations as people write them."""

from __future__ import annotations

import re

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PATTERN = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?"
    r"(?:(\d+(?:\.\d+)?)s?)?"
)


def parse_duration(text: str | float) -> float:
    """Seconds in ``90``, ``90s``, ``50m``, ``1h30m`` or ``2d``.

    Raises:
        ValueError: anything else, or nothing above zero.
    """
    found = _PATTERN.fullmatch(str(text).strip().lower())
    parts = [] if found is None else list(zip(found.groups(), _UNITS.values(), strict=True))
    seconds = sum(float(number) * unit for number, unit in parts if number)
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a duration: write 90s, 50m, 1h30m or 2d")
    return seconds
