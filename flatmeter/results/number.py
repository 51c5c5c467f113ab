"""Numbers as people read them: as many digits as the error allows."""

from __future__ import annotations

import math
from collections.abc import Sequence


def format_number(value: float, digits: int = 4) -> str:
    """``digits`` significant digits, in decimals where that is short, else with an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-3 <= abs(value) < 10 ** max(digits, 5):
        return f"{value:.{max(digits - 1 - _exponent(value, digits), 0)}f}"
    return f"{value:.{digits - 1}e}"


def format_error(value: float, half_width: float | None, digits: int = 4) -> str:
    """``value ± half_width``, both to the digit at which the error starts.

    The error is left out where it would not change the last of ``digits`` significant digits.

    Args:
        value: the number.
        half_width: of its interval; ``None`` where it is unknown (written ``± ?``).
        digits: significant digits of a value whose error does not show.
    """
    if half_width is None:
        return f"{format_number(value, digits)} ± ?"
    last = 10.0 ** (_exponent(value, digits) - digits + 1) if value else 0.0
    if half_width <= last / 2:
        return format_number(value, digits)
    exponent = _exponent(max(abs(value), half_width), digits)
    shift = 0 if -3 <= exponent < max(digits, 5) else exponent
    place = max(_exponent(half_width, 1), exponent - digits + 1) - shift
    scaled, error = (round(x / 10.0**shift, -place) for x in (value, half_width))
    text = f"{scaled:.{max(-place, 0)}f} ± {error:.{max(-place, 0)}f}"
    return text if shift == 0 else f"({text})e{shift:+03d}"


def counted(count: int, noun: str) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def _exponent(value: float, digits: int) -> int:
    """Decimal exponent of the value after rounding to ``digits`` digits."""
    return int(f"{abs(value):.{digits - 1}e}".split("e")[1])
