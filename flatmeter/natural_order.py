"""Order of names in which numbers count as numbers."""

from __future__ import annotations

import re
from pathlib import Path


def natural(path: Path) -> list[tuple[int, str]]:
    """By which paths are sorted so that ``epoch2`` comes before ``epoch10``."""
    stem = str(path.with_suffix("")) if path.name else str(path)
    parts = re.findall(r"\d+|\D+", stem)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]
